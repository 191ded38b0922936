#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""twisted_inline.py: twisted_callbacks.py with its callbacks joined into one
generator, which yields its waits to the reactor.
Run: twisted_inline.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: at each yield everybody else may run, and a function that
calls a generator has to become one.
"""

from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.python.failure import Failure

from line_protocol import TIMEOUT, check_status, echo, error, url_for
from twisted_lines import LineServer, read_body, reason, run, timed_out


class Echo(LineServer):
    @inlineCallbacks
    def fetch(self, url):
        response = yield self.agent.request(b"GET", url)
        check_status(response.code)
        return (yield read_body(response))

    @inlineCallbacks
    def answer(self, line):
        url = url_for(self.upstream, line).encode()
        try:
            body = yield self.fetch(url).addTimeout(TIMEOUT, reactor,
                                                    timed_out)
            self.reply(echo(body))
        except Exception:
            self.reply(error(reason(Failure())))


run("twisted_inline", Echo)
