#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""asyncio_streams.py: one thread and a coroutine per connection. asyncio
brings the streams, aiohttp the fetch.
Run: asyncio_streams.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: at each await, and only there, other coroutines may run. A
wait without await stops them all, and async spreads to every caller.
"""

import asyncio
import socket

from aiohttp import (ClientConnectorError, ClientError, ClientResponseError,
                     ClientSession, ClientTimeout, ServerDisconnectedError,
                     TCPConnector)
from yarl import URL

from line_protocol import (BACKLOG, MAX_BODY, MAX_LINE, TIMEOUT, FetchError,
                           announce, check_status, echo, error, start, url_for)


async def read_lines(reader):
    """Yield each line, or None if it is too long."""
    skipping = False
    while not reader.at_eof():
        try:
            line = await reader.readuntil(b"\n")
            line = line[:-1].removesuffix(b"\r")
        except asyncio.IncompleteReadError as end:
            line = end.partial
            if not line:
                return
        except asyncio.LimitOverrunError as overrun:
            await reader.readexactly(overrun.consumed)
            if not skipping:
                yield None
            skipping = True
            continue
        if not skipping:
            yield line if len(line) <= MAX_LINE else None
        skipping = False


async def fetch(session, url):
    async with session.get(URL(url, encoded=True),
                           allow_redirects=False) as response:
        check_status(response.status)
        body = b""
        async for data in response.content.iter_any():
            body += data
            if len(body) > MAX_BODY:
                raise FetchError("upstream body too large")
        return body


async def answer(session, url):
    """Return the reply to a line, whether the fetch succeeds or not."""
    try:
        async with asyncio.timeout(TIMEOUT):
            try:
                return echo(await fetch(session, url))
            except ServerDisconnectedError:  # perhaps before the request
                return echo(await fetch(session, url))
    except FetchError as problem:
        return error(problem)
    except TimeoutError:
        return error("upstream timed out")
    except ClientConnectorError as problem:
        if isinstance(problem.os_error, socket.gaierror):
            return error("upstream not found")
        return error("upstream refused")
    except ClientResponseError:
        return error("upstream sent bad HTTP")
    except ClientError:
        return error("upstream closed early")


async def main():
    async def serve_connection(reader, writer):
        """Read a line, fetch, write, until the client has no more lines."""
        try:
            async for line in read_lines(reader):
                if line is None:
                    writer.write(error("line too long"))
                else:
                    url = url_for(options.upstream, line)
                    writer.write(await answer(session, url))
                await writer.drain()
        except ConnectionError:
            pass  # the client has gone
        finally:
            writer.close()

    options = start("asyncio_streams")
    connector = TCPConnector(limit=0, force_close=not options.keepalive)
    async with ClientSession(connector=connector, auto_decompress=False,
                             timeout=ClientTimeout()) as session:
        server = await asyncio.start_server(
            serve_connection, *options.listen, limit=MAX_LINE + 1,
            backlog=BACKLOG)
        announce("asyncio_streams", server.sockets[0].getsockname())
        await server.serve_forever()


asyncio.run(main())
