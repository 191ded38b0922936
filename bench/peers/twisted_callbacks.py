#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""twisted_callbacks.py: one thread and a reactor. What follows a wait is a
function, passed in before the wait.
Run: twisted_callbacks.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: which callback runs next, and what may have happened to the
connection by then. A function starts at its end: read it upwards.
"""

from twisted.internet import reactor

from line_protocol import TIMEOUT, check_status, echo, error, url_for
from twisted_lines import LineServer, read_body, reason, run, timed_out


class Echo(LineServer):
    def answer(self, line):
        def got_body(body):
            return echo(body)

        def got_response(response):
            check_status(response.code)
            return read_body(response)

        def failed(failure):
            return error(reason(failure))

        url = url_for(self.upstream, line).encode()
        d = self.agent.request(b"GET", url)
        d.addCallback(got_response)
        d.addTimeout(TIMEOUT, reactor, timed_out)
        d.addCallbacks(got_body, failed)
        d.addCallback(self.reply)


run("twisted_callbacks", Echo)
