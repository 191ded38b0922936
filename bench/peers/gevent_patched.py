#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""gevent_patched.py: threads.py, plus one line that turns its threads into
greenlets and its blocking calls into switches.
Run: gevent_patched.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: any call may switch, and one that cannot stops everybody.
"""

from gevent.monkey import patch_all; patch_all()  # noqa: E702

from threads import main  # noqa: E402

main("gevent_patched")
