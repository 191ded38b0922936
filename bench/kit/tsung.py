# SPDX-License-Identifier: MIT
"""Writes a scenario for Tsung, and reads what Tsung logs of a run.

Each connection is one of Tsung's users. It opens its connection, waits until
all are open, then sends one line after the other and matches each reply. Four
properties of Tsung 1.7 (ts_client.erl, ts_search.erl) shape the scenario:

- Tsung takes what one read gives for the reply, so a reply must fit into a
  TCP segment.
- It keeps what a connection has received, for as long as requests have a
  match, and matches all of that. The pattern therefore skips as many bytes as
  the earlier replies had: so a byte too many is found as well.
- It goes on after a wrong reply, unless a match says otherwise, and after the
  server closed a connection, unless the session is not persistent.
- It tests only now and then whether all users have ended: every 5 s, and
  every 60 s with more than 1,000 of them.
"""

import os
import re
import statistics
from typing import Any
from xml.sax.saxutils import escape, quoteattr

DTD = "/usr/share/tsung/tsung-1.0.dtd"
TAG = 16  # bytes of a line: connection, "-", number
LONGEST_LINE = 1400  # its reply fits into one segment of an Ethernet frame
ADDED = len("echo: ") + len("\n")  # of a reply, to its line
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPENED_PER_SECOND = 1000  # connections, of a load host
SPARE_USERS = 10  # Tsung starts another node before this limit is reached
SPARE_SECONDS = 2.0  # for the start, which Tsung rounds, and the last replies
MOST = 1000000000
HELD = 0.02  # of a rate's time that it may take longer
FULL = "tsung-fullstats.log"
SUMMARY = "tsung.log"
PERCENTILES = (("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999))
# The classes that build/load has; Tsung can't tell the others apart.
FAILURES = ("wrong", "unmarked", "prefix", "mixed_up", "reordered", "dropped",
            "surplus", "closed_early", "timeout", "connect", "not_closed",
            "unsent")
TEMPLATE = """<?xml version="1.0"?>
<!DOCTYPE tsung SYSTEM "{dtd}" []>
<tsung loglevel="notice" backend="fullstats">
  <clients>
{clients}
  </clients>
  <servers>
    <server host={host} port="{port}" type="{type}"/>
  </servers>
  <load>
{phases}
  </load>
  <options>
    <option name="max_retries" value="0"/>
    <option name="connect_timeout" value="{timeout}"/>
    <option name="idle_timeout" value="{timeout}"/>
    <option name="global_number" value="{connections}"/>
    <option name="global_ack_timeout" value="{timeout}"/>
  </options>
  <sessions>
    <session name="lines" weight="1" type="ts_raw" persistent="false">
      <!-- open the connection, then wait for all others -->
      <request><raw ack="no_ack" data=""/></request>
      <thinktime value="wait_global"/>
      <setdynvars sourcetype="eval" code={first}>
        <var name="user"/><var name="began"/><var name="count"/>
        <var name="number"/><var name="before"/>{wait_variable}
      </setdynvars>
      <transaction name="lines">
        <repeat name="turn" max_repeat="{most}">
{wait}          <request subst="true">
            <match do="abort" when="nomatch" subst="true">{pattern}</match>
            <raw ack="local" data={data}/>
          </request>
          <setdynvars sourcetype="eval" code={next}>
            <var name="count"/><var name="number"/><var name="before"/>
            <var name="more"/>{wait_variable}
          </setdynvars>
          <while var="more" eq="1"/>
        </repeat>
      </transaction>
    </session>
  </sessions>
</tsung>
"""
# In Erlang, for each connection once all are open. I is its number.
FIRST = """fun({{_, V}}) ->
  {{ok, I}} = ts_dynvars:lookup(tsung_userid, V),
  [lists:flatten(io_lib:format("~6..0B", [I])),
   erlang:monotonic_time(microsecond), 0, "000000001", ""{wait}] end."""
# After each reply. N is how many lines have been sent.
NEXT = """fun({{_, V}}) ->
  {{ok, M}} = ts_dynvars:lookup(count, V),
  {{ok, I}} = ts_dynvars:lookup(tsung_userid, V),
  {{ok, Began}} = ts_dynvars:lookup(began, V),
  N = M + 1,
  K = N * {reply},
  Now = erlang:monotonic_time(microsecond) - Began,
  [N, lists:flatten(io_lib:format("~9..0B", [N + 1])),
   lists:flatten(io_lib:format("(?:.{{65535}}){{~B}}.{{~B}}",
                               [K div 65535, K rem 65535])),
   if {more} -> 1; true -> 0 end{wait}] end."""
# Line N of connection I is due then, as with build/load; in s from Now.
WAIT = """, io_lib:format("~.6f",
    [max(0, ({n} * {connections} + (I rem {connections})) * {interval}
     - {now}) / 1000000])"""


class Plan:
    """What load to put on the server."""

    def __init__(self, args):
        self.host, self.port = args.server
        self.connections = args.connections
        self.rate = args.rate
        self.seconds = args.duration
        self.line_size = args.line_size
        self.timeout = args.timeout
        # of each connection; None: as many as fit in the time
        self.lines = None
        if args.rate:
            self.lines = int(args.rate * args.duration / args.connections)
        elif not args.duration:
            self.lines = args.requests // args.connections

    @property
    def reply_bytes(self):
        return self.line_size + ADDED

    @property
    def address(self):
        return f"[{self.host}]:{self.port}" if ":" in self.host \
            else f"{self.host}:{self.port}"

    def due_seconds(self):
        """Return how long all lines take at the rate."""
        return self.lines * self.connections / self.rate

    def opening_seconds(self, hosts):
        """Return how long it takes to open the connections."""
        return self.connections / (OPENED_PER_SECOND * hosts)

    def load_seconds(self):
        """Return how long the lines take, or None if that is not known."""
        return self.due_seconds() if self.rate else self.seconds


def phases(plan, hosts):
    """Return the phases in which Tsung starts its users.

    It starts all in the first. Where the time is known, a second, empty phase
    starts when they have ended: only so Tsung ends soon after.
    """
    load = plan.load_seconds()
    first = 3600 if load is None else \
        plan.opening_seconds(hosts) + load + SPARE_SECONDS
    return [(first, plan.connections)] + ([] if load is None else [(0.1, 0)])


def scenario(plan, hosts, controller):
    """Return the scenario as XML.

    hosts are Erlang's names of the load hosts, each with its own addresses to
    connect from; without any, the controller itself is the load host.
    """
    most = plan.connections + SPARE_USERS
    own = ' use_controller_vm="true"' if not hosts else ""
    clients = []
    for name, sources in hosts or [(controller, [])]:
        inside = "".join(f"<ip value={quoteattr(source)}/>"
                         for source in sources)
        start = f'    <client host={quoteattr(name)}{own} maxusers="{most}"'
        clients.append(f"{start}>{inside}</client>" if inside
                       else f"{start}/>")
    per_second = OPENED_PER_SECOND * max(1, len(hosts))
    found = [f'    <arrivalphase phase="{number}" '
             f'duration="{seconds * 1000:.0f}" unit="millisecond">\n'
             f'      <users arrivalrate="{per_second}" unit="second" '
             f'maxnumber="{users}"/>\n    </arrivalphase>'
             for number, (seconds, users)
             in enumerate(phases(plan, max(1, len(hosts))), 1)]
    padding = (LETTERS * (plan.line_size // len(LETTERS) + 1))[
        :plan.line_size - TAG]
    line = f"%%_user%%-%%_number%%{padding}"
    wait_first = wait_next = ""
    if plan.rate:
        pace = {"connections": plan.connections,
                "interval": f"{1e6 / plan.rate:.9f}"}
        wait_first = WAIT.format(n="0", now="0", **pace)
        wait_next = WAIT.format(n="N", now="Now", **pace)
    more = f"N < {plan.lines}" if plan.lines is not None \
        else f"Now < {plan.seconds * 1e6:.0f}"
    return TEMPLATE.format(
        dtd=DTD, clients="\n".join(clients), host=quoteattr(plan.host),
        port=plan.port, type="tcp6" if ":" in plan.host else "tcp",
        phases="\n".join(found), timeout=round(plan.timeout * 1000),
        connections=plan.connections, most=MOST,
        first=code(FIRST.format(wait=wait_first)),
        next=code(NEXT.format(reply=plan.reply_bytes, more=more,
                              wait=wait_next)),
        wait_variable='<var name="wait"/>' if plan.rate else "",
        wait='          <thinktime value="%%_wait%%"/>\n' if plan.rate
        else "",
        pattern=escape(rf"(?s)\A%%_before%%echo: {line}\n\z"),
        data=f'"{line}&#10;"')


def code(text):
    """Return Erlang as an attribute's value, with its line breaks."""
    return quoteattr(text).replace("&#10;", "\n")


class Log:
    """What Tsung has logged of a run, in a directory."""

    def __init__(self, directory):
        self.directory = directory
        self.ended = False  # Tsung has written all of it
        self.samples: dict[str, int] = {}  # how many, by name
        self.counters: dict[str, int] = {}
        self.read_summary()

    def read(self, name):
        try:
            with open(os.path.join(self.directory, name), encoding="utf-8",
                      errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def read_summary(self):
        """Read the counters. Each block of lines has what came since the last
        one, and the sum of it."""
        for line in self.read(SUMMARY).splitlines():
            words = line.split()
            if line.startswith("EndMonitor:"):
                self.ended = True
            elif len(words) == 9 and words[0] == "stats:":
                self.samples[words[1]] = int(words[2]) + int(words[8])
            elif len(words) == 4 and words[0] == "stats:":
                self.counters[words[1]] = int(words[3])

    def count(self, name):
        return self.counters.get(name, 0)

    def errors(self):
        """Return the counters that tell of an error."""
        return {name: count for name, count in sorted(self.counters.items())
                if count and (name.startswith("error") or name == "timeout")}

    def progress(self):
        """Return what changes as long as lines are answered."""
        return (self.samples.get("request"), self.samples.get("connect"),
                self.counters.get("finish_users_count"))

    def read_samples(self):
        """Return the latencies in us, sorted, and the time of each connection
        in s."""
        text = self.read(FULL)
        latencies = sorted(
            round(float(word) * 1000) for found in
            re.finditer(r"\{sample,request,\s*\[([^]]*)\]\}", text)
            for word in found[1].split(","))
        seconds = [float(word) / 1000 for word in
                   re.findall(r"\{sample,tr_lines,\s*([-+.\de]+)\}", text)]
        return latencies, seconds

    def shares(self):
        """Return how many connections each load host was to open."""
        found: dict[str, int] = {}
        for name in sorted(os.listdir(self.directory)):
            if name.startswith("tsung_controller"):
                for host, users in re.findall(
                        r"New arrival phase 1 for client \"([^\"]+)\" .*: "
                        r"will start (\d+) users", self.read(name)):
                    found[host] = int(users)
        return found

    def complaints(self):
        """Return what Tsung logs as an error, level 0 to 3."""
        found = []
        for name in sorted(os.listdir(self.directory)):
            if name.startswith("tsung") and "@" in name:
                found += re.findall(
                    r"^ *\w+:\([0-3]:<[\d.]+>\) +(.*\S)", self.read(name),
                    re.MULTILINE)
        return list(dict.fromkeys(found))


def percentile(ordered, thousandths):
    """Return the sample at the nearest rank, as build/load does."""
    return ordered[(len(ordered) * thousandths + 999) // 1000 - 1]


def latency_of(latencies):
    """Return the figures of sorted latencies; null where there is none."""
    if not latencies:
        return dict.fromkeys(("mean", *(name for name, _ in PERCENTILES),
                              "max"))
    return {"mean": round(statistics.fmean(latencies), 3),
            **{name: percentile(latencies, share)
               for name, share in PERCENTILES}, "max": latencies[-1]}


def problems_of(plan, log, latencies, seconds):
    """Return why a run is not valid."""
    problems = []

    def compare(what, found, wanted):
        if found != wanted:
            problems.append(f"{what}: {found:,} instead of {wanted:,}")

    right, wrong = log.count("match"), log.count("nomatch")
    if wrong:
        problems.append(f"wrong replies: {wrong:,} (each ended its "
                        "connection)")
    problems += [f"Tsung counts {name} {count:,}"
                 for name, count in log.errors().items()]
    if not log.ended:
        problems.append("Tsung's log is cut short")
    compare("connections started", log.count("users_count"),
            plan.connections)
    compare("connections made", log.samples.get("connect", 0),
            plan.connections)
    compare("connections ended", log.count("finish_users_count"),
            plan.connections)
    if plan.lines is not None:
        compare("right replies", right, plan.lines * plan.connections)
    elif not right:
        problems.append("no right reply")
    answered = right + wrong
    sent = log.count("size_sent")
    compare("bytes sent", sent, answered * (plan.line_size + 1))
    compare("bytes received", log.count("size_rcv"),
            answered * plan.reply_bytes)
    compare("samples", len(latencies), answered)
    compare("connections with a time", len(seconds), plan.connections)
    if plan.rate and latencies and seconds and not problems:
        longest = plan.due_seconds() * (1 + HELD) + latencies[-1] / 1e6
        if max(seconds) > longest:
            problems.append(
                f"the rate was not held: {max(seconds):.3f} s instead of "
                f"{plan.due_seconds():.3f} s")
    return problems


def row(plan, log, hosts, version):
    """Return the figures of a run by the names that build/load has; what
    Tsung can't tell is None."""
    latencies, times = log.read_samples()
    problems = problems_of(plan, log, latencies, times)
    seconds = max(times, default=0.0)
    latency = latency_of(latencies)
    per_second = len(latencies) / seconds if seconds else 0.0
    errors = log.errors()
    failures: dict[str, Any] = dict.fromkeys(FAILURES)
    failures["wrong"] = log.count("nomatch")
    failures["closed_early"] = sum(
        count for name, count in errors.items()
        if name in ("error_closed", "error_connection_closed")
        or name.startswith("error_inet_"))
    failures["timeout"] = errors.get("error_timeout", 0) + \
        errors.get("timeout", 0)
    failures["connect"] = errors.get("error_abort_max_conn_retries", 0)
    sent = log.count("size_sent") // (plan.line_size + 1)
    answered = log.count("match") + log.count("nomatch")
    shares = log.shares()
    return {
        "server": plan.address, "connections": plan.connections,
        "lines_in_flight": 1, "line_size": plan.line_size,
        "reply_size": plan.line_size,
        "loop": "open" if plan.rate else "closed",
        "offered_rate": plan.rate or 0.0, "requests": len(latencies),
        "began_ns": None, "seconds": round(seconds, 6),
        "requests_per_second": round(per_second, 3), "latency_us": latency,
        "fastest_us": latencies[0] if latencies else None,
        "concurrency": round(per_second * latency["mean"] / 1e6 /
                             plan.connections, 6) if latencies else None,
        "cpu_user": None, "cpu_sys": None, "cpu_us_per_request": None,
        "late_us": None, "connected": log.samples.get("connect", 0),
        "lines_sent": sent, "text_bytes": sent * plan.line_size,
        "replies": answered, "right_replies": log.count("match"),
        "error_replies": None, "error_reasons": None, "failures": failures,
        "right": not problems, "problems": problems,
        "generator": f"tsung {version}",
        "hosts": [{"name": name, "connections": shares.get(address)}
                  for name, address in hosts],
        "tsung_errors": errors}
