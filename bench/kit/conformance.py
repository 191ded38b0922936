# SPDX-License-Identifier: MIT
"""Checks a server against the line protocol, with the suite in tests/."""

import os
import re
import textwrap
import time

from .processes import Program

SUITE = os.path.join("build", "tests", "test_protocol")
# In seconds. A correct server takes up to 10. One that is slow to start takes
# longer: --protocol starts it for each test.
PATIENCE = 400
MORE_FAILURES = 20  # seconds to run on after the first failure
TO_END = 30  # seconds for the suite to end what it has started
COLUMNS = 79


def hold(root, contender, log, option="--protocol"):
    """Run the suite; return whether it passed, how it ended, its failures.

    A contender whose entry lists tests that it fails passes if it fails these
    and no others. The report goes to log as TAP, test by test. The suite is
    stopped soon after the first failure: a line without a reply costs a test
    ten seconds, and a server that drops one drops many.
    """
    expected = expand(contender.entry.get("fails", ()))
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
        if not failed and failures(log, expected):
            failed = True
            limit = min(limit, time.monotonic() + MORE_FAILURES)
    ending = program.ended() or "was cut short"
    program.stop(patience=TO_END)
    found = failures(log, expected)
    good = "ended with status 1" if expected else "ended with status 0"
    if ending == good:
        found += [f"{test}: said to fail, but there is no such test"
                  for test in sorted(expected - set(results(log)))]
    return ending == good and not found, ending, found


def expand(tests):
    """Return the set of single tests that a list of them names: NAME,
    NAME:NUMBER or NAME:FIRST-LAST. A single one is NAME:NUMBER."""
    single = set()
    for test in tests:
        name, _, numbers = test.partition(":")
        first, _, last = numbers.partition("-")
        single |= {f"{name}:{number}" for number in
                   range(int(first or 0), int(last or first or 0) + 1)}
    return single


def results(log):
    """Return the results in a TAP report, by test: NAME:NUMBER.

    The number of a test is not in the report; its cases are in order.
    """
    with open(log, encoding="utf-8", errors="replace") as report:
        found = re.split(r"^(?=ok |not ok |1\.\.)", report.read(), flags=re.M)
    by_test: dict[str, str] = {}
    cases: dict[str, int] = {}
    for result in found:
        # While the suite runs, the last line may be half written.
        test = re.match(r"(?:not )?ok \d+ - [^:]*:[^:]*:(?:test_)?(\w+):.*\n",
                        result)
        if test:
            number = cases.get(test[1], 0)
            cases[test[1]] = number + 1
            by_test[f"{test[1]}:{number}"] = result.strip()
    return by_test


def failures(log, expected=frozenset()):
    """Return the failures in a TAP report, as paragraphs to print; to pass is
    one for a test that is expected to fail."""
    found = []
    for test, result in results(log).items():
        passed = result.startswith("ok ")
        if passed and test in expected:
            found.append(f"{test}: said to fail, but passes")
        elif not passed and test not in expected:
            found.append(describe(result))
    return found


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
