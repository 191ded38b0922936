# SPDX-License-Identifier: MIT
"""What the two Twisted peers share: lines in, replies out, bodies, and the
reasons of failures. They differ in how they call the fetch.
"""

from twisted.internet import error as net
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.basic import LineReceiver
from twisted.web.client import (Agent, HTTPConnectionPool, ResponseDone,
                                ResponseFailed)
from twisted.web.http import PotentialDataLoss
from zope.interface import implementer

from line_protocol import (BACKLOG, MAX_BODY, MAX_LINE, TIMEOUT, FetchError,
                           announce, error, start)


@implementer(IHalfCloseableProtocol)
class LineServer(LineReceiver):
    """Calls answer(line) for each line; reply(data) allows the next one."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE + 1  # the CR counts here
    half_closed = False

    def connectionMade(self):
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line):
        self.take(line.removesuffix(b"\r"))

    def take(self, line):
        self.pauseProducing()
        if len(line) > MAX_LINE:
            self.reply(error("line too long"))
        else:
            self.answer(line)

    def reply(self, data):
        self.transport.write(data)
        if self.half_closed:
            self.transport.loseConnection()
        else:
            self.resumeProducing()

    def lineLengthExceeded(self, rest):
        self.transport.write(error("line too long"))
        self.setRawMode()
        self.rawDataReceived(rest)

    def rawDataReceived(self, data):
        _, end, rest = data.partition(b"\n")
        if end:
            self.setLineMode(rest)

    def readConnectionLost(self):
        self.half_closed = True
        line = self.clearLineBuffer()
        if line:
            self.take(line)
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self):
        pass  # connectionLost follows

    def connectionLost(self, reason):
        self.clearLineBuffer()  # nobody waits for their replies


class Body(Protocol):
    """readBody with a limit, and a timeout that closes the connection."""

    def __init__(self):
        self.data = b""
        self.done = Deferred(lambda _: self.transport.loseConnection())

    def dataReceived(self, data):
        self.data += data
        if len(self.data) > MAX_BODY:
            self.transport.loseConnection()

    def connectionLost(self, reason):
        if len(self.data) > MAX_BODY:
            self.done.errback(FetchError("upstream body too large"))
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(self.data)
        else:
            self.done.errback(reason)


def read_body(response):
    body = Body()
    response.deliverBody(body)
    return body.done


def timed_out(*_):
    """Raise the error of Deferred.addTimeout()."""
    raise FetchError("upstream timed out")


def reason(failure):
    """Return the reason that the client gets for a failed fetch."""
    if failure.check(ResponseFailed):
        failure = failure.value.reasons[0]
        if failure.check(net.ConnectionDone, net.ConnectionLost):
            return "upstream closed early"
        return "upstream sent bad HTTP"
    if failure.check(net.DNSLookupError):
        return "upstream not found"
    if failure.check(net.TimeoutError):
        return "upstream timed out"
    if failure.check(net.ConnectError):
        return "upstream refused"
    if failure.check(FetchError):
        return failure.value
    return "upstream failed"


def run(name, protocol):
    options = start(name)
    pool = HTTPConnectionPool(reactor, persistent=options.keepalive)
    pool.maxPersistentPerHost = BACKLOG
    protocol.agent = Agent(reactor, connectTimeout=TIMEOUT, pool=pool)
    protocol.upstream = options.upstream
    host, port = options.listen
    listener = reactor.listenTCP(port, Factory.forProtocol(protocol),
                                 BACKLOG, host)
    announce(name, (listener.getHost().host, listener.getHost().port))
    reactor.run()
