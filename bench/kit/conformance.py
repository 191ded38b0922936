# SPDX-License-Identifier: MIT
"""Checks a server against the line protocol, with the suite in tests/."""

import os
import re
import textwrap
import time

from .processes import Program

SUITE = os.path.join("build", "tests", "test_protocol")
PATIENCE = 180  # seconds; a correct server takes up to 10
MORE_FAILURES = 20  # seconds to run on after the first failure
TO_END = 30  # seconds for the suite to end what it has started
COLUMNS = 79


def hold(root, contender, log, option="--protocol"):
    """Run the suite; return whether it passed, how it ended, its failures.

    The report goes to log as TAP, test by test. The suite is stopped soon
    after the first failure: a line without a reply costs a test ten seconds,
    and a server that drops one drops many.
    """
    with open(log, "wb"):
        pass
    directory = contender.directory or root
    # A failure names the suite as it is called here.
    suite = os.path.relpath(os.path.join(root, SUITE), directory)
    program = Program([suite, option], os.devnull, cwd=directory,
                      untrusted=True,
                      env={**os.environ, "SERVER": contender.template,
                           "CK_TAP_LOG_FILE_NAME": log})
    limit = time.monotonic() + PATIENCE
    failed = False
    while not program.ended() and time.monotonic() < limit:
        time.sleep(0.1)
        if not failed and failures(log):
            failed = True
            limit = min(limit, time.monotonic() + MORE_FAILURES)
    ending = program.ended() or "was cut short"
    program.stop(patience=TO_END)
    found = failures(log)
    return ending == "ended with status 0" and not found, ending, found


def failures(log):
    """Return the failures in a TAP report, as paragraphs to print."""
    with open(log, encoding="utf-8", errors="replace") as report:
        results = re.split(r"^(?=ok |not ok |1\.\.)", report.read(),
                           flags=re.M)
    return [describe(result.strip()) for result in results
            if result.startswith("not ok ")]


def describe(result):
    """Return a failed test of a TAP report, fit for a terminal.

    Its first line is the suite's source, the case, the test and a summary.
    What follows is indented and narrow already.
    """
    first, *details = result.splitlines()
    first = re.sub(r"^not ok \d+ - [^:]*:[^:]*:(?:test_)?", "", first)
    return "\n".join(textwrap.wrap(first, COLUMNS, subsequent_indent="    ",
                                   break_on_hyphens=False) + details)


def count_tests(log):
    """Return the number of tests in a TAP report."""
    with open(log, encoding="utf-8", errors="replace") as report:
        return len(re.findall(r"^(?:not )?ok ", report.read(), re.M))
