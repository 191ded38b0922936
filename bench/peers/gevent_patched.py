#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""gevent_patched.py: threads.py, with the one line that turns each of its
threads into a greenlet and each of its blocking calls into a switch.
Run: gevent_patched.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: any call may switch, any call that cannot stops everyone.
"""

from gevent.monkey import patch_all; patch_all()  # noqa: E702

from threads import main  # noqa: E402

main("gevent_patched")
