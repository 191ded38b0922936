#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""eventlet_patched.py: threads.py, plus the line by which Eventlet turns its
threads into green threads and its blocking calls into switches.
Run: eventlet_patched.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: any call may switch, and one that cannot stops everybody.
"""

from eventlet import monkey_patch; monkey_patch()  # noqa: E702

from threads import main  # noqa: E402

main("eventlet_patched")
