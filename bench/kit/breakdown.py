# SPDX-License-Identifier: MIT
"""Says what the CPU time of a request is made of, for two servers.

perf takes a sample of each core several thousand times a second, with the
chain of calls that led there. Each sample of the server's goes to one row of
the table: in user space by the library that it is in, in the kernel by the
innermost function of its chain that is known to begin a part of the kernel.
A row's time is its samples times the time between two.

The CPU clock of the same runs, and that of runs without perf, say whether the
rows add up.
"""

import collections
import os
import random
import re
import select
import statistics
import subprocess
import tempfile

from . import calls, proc, processes, results, run
from .console import say, wrap
from .processes import Failure, Program

PERIOD_NS = 299993  # between samples; no multiple of the kernel's tick
RECORD = ["perf", "record", "--quiet", "--all-cpus", "--no-buildid",
          "--no-buildid-cache", "--clockid", "CLOCK_MONOTONIC", "--event",
          "cpu-clock", "--count", str(PERIOD_NS), "--call-graph", "fp"]
# On one line each: when, whose; then a line per function of its chain.
SCRIPT = ["perf", "script", "--ns", "--no-inline", "--fields",
          "pid,time,ip,sym,dso"]
PERF_PATIENCE = 60  # seconds for perf to start, to write or read its file
TRIES = 3  # of a run that went wrong

OWN = "the server's own code"
LIBC = "libc"
OTHER_USER = "other libraries"
ENTRY = "system-call entry and exit"
SOCKETS = "TCP and sockets"
POLL = "poll and epoll"
FUTEX = "futex"
SWITCH = "context switches"
WAKE = "readiness and wake-ups"
MEMORY = "page faults, memory maps"
TASKS = "threads made and ended"
FILES = "pipes, eventfds, files"
INTERRUPT = "interrupts"
OTHER_KERNEL = "other kernel code"

# Where each part of the kernel begins; a name that ends in * is a prefix. The
# innermost of them decides: what a send does in the scheduler to wake up its
# receiver is no time of TCP's.
PARTS = {
    SOCKETS: """tcp_sendmsg tcp_recvmsg tcp_v4_* tcp_v6_* inet_*
        sock_write_iter sock_read_iter sock_sendmsg sock_recvmsg __sys_send*
        __sys_recv* ___sys_send* ___sys_recv* __sys_accept4* __sys_connect*
        __sys_socket* __sys_shutdown* __sys_setsockopt* __sys_getsockopt*
        sock_close net_rx_action net_tx_action tcp_write_timer tcp_delack_timer
        unix_stream_* __x64_sys_send* __x64_sys_recv* __x64_sys_accept*""",
    POLL: """do_sys_poll __x64_sys_poll __x64_sys_ppoll __arm64_sys_ppoll
        do_epoll_wait do_epoll_ctl __x64_sys_epoll_* __arm64_sys_epoll_*
        do_select core_sys_select eventpoll_release_file""",
    FUTEX: "do_futex __x64_sys_futex* __arm64_sys_futex*",
    SWITCH: """__schedule schedule schedule_tail preempt_schedule*
        finish_task_switch* schedule_idle ret_from_fork* __cond_resched
        do_sched_yield __rseq_handle_notify_resume rseq_*
        __x64_sys_sched_yield __arm64_sys_sched_yield""",
    WAKE: """try_to_wake_up __wake_up* wake_up_* sock_def_readable
        sock_def_write_space sk_stream_write_space autoremove_wake_function
        default_wake_function ep_poll_callback pollwake ttwu_* sched_ttwu_*
        __sysvec_call_function* flush_smp_call_function_queue""",
    MEMORY: """asm_exc_page_fault exc_page_fault do_user_addr_fault
        handle_mm_fault el0_da el0_ia do_mem_abort vm_mmap_pgoff __vm_munmap
        do_mprotect_pkey do_madvise __x64_sys_brk __arm64_sys_brk
        __x64_sys_mmap""",
    TASKS: "kernel_clone do_exit __do_sys_clone* do_group_exit",
    FILES: """vfs_read vfs_write vfs_readv vfs_writev do_readv do_writev
        ksys_read ksys_write do_sys_openat2 __x64_sys_close __arm64_sys_close
        __x64_sys_fcntl __arm64_sys_fcntl __fput""",
    INTERRUPT: """asm_sysvec_* asm_common_interrupt common_interrupt el0_irq*
        el1h_64_irq el0t_64_irq rcu_core run_timer_softirq
        sched_balance_softirq""",
}
# A sample that has been nowhere else is on its way into or out of the kernel.
GATE = """entry_* do_syscall_64 x64_sys_call syscall_* __syscall_* asm_* el0*
    do_el0_svc* invoke_syscall* el0_svc* exit_to_user_mode* irqentry_*
    __x64_sys_* __arm64_sys_* srso_* __fentry__ error_entry restore_* swapgs_*
    native_irq_return_iret ret_to_user* kernel_entry* fdget __fdget*
    arch_exit_to_user_mode* sockfd_lookup_light"""

# Which system calls are counted beside which row; the rest is all others.
COUNTED = {
    SOCKETS: ("recvfrom", "recvmsg", "sendto", "sendmsg", "accept", "accept4",
              "connect", "socket", "setsockopt", "getsockopt", "shutdown"),
    POLL: ("poll", "ppoll", "select", "pselect6", "epoll_wait",
           "epoll_pwait", "epoll_pwait2", "epoll_ctl"),
    FUTEX: ("futex",),
    FILES: ("read", "write", "readv", "writev"),
}
TRACEPOINT = "syscalls:sys_enter_{}"
WAKE_UP = "sched:sched_waking"
TRACING = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
OWN_FIRST = (OWN, "libcurl", "green.so", LIBC)  # the order of the table
KERNEL_ROWS = (ENTRY, SOCKETS, POLL, FUTEX, FILES, SWITCH, WAKE, MEMORY, TASKS,
               INTERRUPT, OTHER_KERNEL)
MUCH = 0.03  # of all time: from then on the table says what the rest is
MOST_OTHERS = 5  # functions that it names then
UNKNOWN = "[unknown]"  # a file that perf has no name for
SMALL_US = 0.1  # a library below this on both sides has no row of its own

# What one run has shown, per request: rows is row: microseconds, if perf was
# there, and others function: microseconds of what has no row; clock_us is by
# the CPU clock; the counts are the kernel's.
Run = collections.namedtuple(
    "Run", "rows others clock_us switches faults threads memory_kib "
    "disturbed")


def in_order(words):
    """Return the names, and the prefixes, in a list of words."""
    names = {word for word in words.split() if not word.endswith("*")}
    return names, tuple(word[:-1] for word in words.split()
                        if word.endswith("*"))


MATCHES = {row: in_order(words) for row, words in PARTS.items()}
GATE_MATCH = in_order(GATE)


def matches(function, match):
    names, prefixes = match
    return function in names or function.startswith(prefixes)


class Classifier:
    """Puts samples into rows: each sample into one."""

    def __init__(self, program):
        self.program = program  # the path of the server's own file
        self.known = {}  # function: row or None
        # functions of OTHER_KERNEL
        self.others: collections.Counter[str] = collections.Counter()

    def part(self, function):
        """Return the part of the kernel that a function begins, or None."""
        if function not in self.known:
            self.known[function] = next(
                (row for row, match in MATCHES.items()
                 if matches(function, match)), None)
        return self.known[function]

    def library(self, path):
        """Return the row of a file that has code in user space."""
        name = os.path.basename(path)
        if path == self.program:
            return OWN
        if re.match(r"(libc|ld-linux[^.]*|libpthread|libc-\d.*)\.so|ld-.*\.so|"
                    r"\[vdso\]$", name):
            return LIBC
        if "green.so" in name:
            return "green.so"
        library = re.match(r"(lib[\w+-]+?)(-[\d.]+)?\.so", name)
        return library[1] if library else OTHER_USER

    def row(self, frames):
        """Return the row of a sample: frames are (in the kernel, function,
        file), the innermost first."""
        if not frames or not frames[0][0]:
            return self.library(frames[0][2]) if frames else OTHER_USER
        # Below the kernel's frames are the caller's, which may be no
        # addresses at all: most libraries have no frame pointers.
        kernel = [function for inside, function, path in frames
                  if inside and path != UNKNOWN]
        for function in kernel:
            if row := self.part(function):
                return row
        if kernel and all(matches(function, GATE_MATCH)
                          for function in kernel):
            return ENTRY
        self.others[frames[0][1]] += 1
        return OTHER_KERNEL


def samples_of(text):
    """Return (time in ns, frames) for each sample that perf script prints."""
    found = []
    for block in text.split("\n\n"):
        lines = block.strip("\n").splitlines()
        head = re.match(r"\s*\d+\s+(\d+)\.(\d{9}):", lines[0]) if lines \
            else None
        if not head:
            continue
        frames = []
        for line in lines[1:]:
            frame = re.match(r"\s*([0-9a-f]+) (.*) \((.*)\)$", line)
            if frame:
                # The kernel is in the upper half of the addresses.
                frames.append((int(frame[1], 16) >= 1 << 63, frame[2],
                               frame[3]))
        found.append((int(head[1]) * 10 ** 9 + int(head[2]), frames))
    return found


def why_not():
    """Return why perf can't take these samples here; None if it can."""
    with tempfile.NamedTemporaryFile() as data:
        try:
            done = subprocess.run(
                [*RECORD, "--output", data.name, "true"], text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=PERF_PATIENCE, check=False)
        except FileNotFoundError:
            return "perf is not installed (scripts/install-deps bench)"
    if done.returncode:
        return ("perf may not sample the kernel here; "
                "/proc/sys/kernel/perf_event_paranoid is "
                f"{proc.read('/proc/sys/kernel/perf_event_paranoid').strip()}"
                ", for any user but root it must be at most 0")
    symbols = proc.read("/proc/kallsyms").split(None, 1)
    if not symbols or not int(symbols[0], 16):
        return ("the kernel hides its functions; "
                "/proc/sys/kernel/kptr_restrict is "
                f"{proc.read('/proc/sys/kernel/kptr_restrict').strip()}")
    return None


class Recorder:
    """perf, which takes samples from now on."""

    def __init__(self, settings):
        self.data = os.path.join(settings.work, "perf.data")
        control, self.control = os.pipe()
        self.answer, answer = os.pipe()
        try:
            self.program = Program(
                [*RECORD, "--delay", "-1", "--control",
                 f"fd:{control},{answer}", "--output", self.data],
                settings.log("perf"), pass_fds=(control, answer))
        finally:
            os.close(control)
            os.close(answer)
        os.write(self.control, b"enable\n")
        # It answers when each core is being sampled, or it ends.
        if not select.select([self.answer], [], [], PERF_PATIENCE)[0] \
                or not os.read(self.answer, 16):
            raise Failure(f"perf: {self.program.tail()}")

    def stop(self):
        """Have perf write its file."""
        os.write(self.control, b"stop\n")
        written = self.program.wait(PERF_PATIENCE)
        os.close(self.control)
        os.close(self.answer)
        ending = self.program.stop(patience=0)
        if not written or self.program.process.returncode:
            raise Failure(f"perf {ending}: {self.program.tail()}")

    def samples(self, pids):
        """Return the samples of these processes."""
        done = subprocess.run(
            [*SCRIPT, "--input", self.data, "--pid",
             ",".join(map(str, pids))], stdin=subprocess.DEVNULL, text=True,
            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=PERF_PATIENCE, check=False)
        os.remove(self.data)
        if done.returncode:
            raise Failure(f"perf script: {done.stderr.strip()[-300:]}")
        return samples_of(done.stdout)


def faults(pids):
    """Return the page faults of processes, those on a disk left out."""
    return sum(int(fields[7]) for fields in map(proc.stat_fields, pids)
               if fields)


def count_rows(samples, classifier, window):
    """Return how many samples of the window each row has."""
    begin, end = window
    return collections.Counter(classifier.row(frames)
                               for when, frames in samples
                               if begin <= when < end)


def one_run(settings, contender, point, perf):
    """Make a run, with perf or without; return its Run. Raises Failure if a
    reply is wrong."""
    concurrency, delay_ms = point
    upstream = run.start_upstream(settings, contender, delay_ms)
    server = None
    try:
        upstream_port = processes.wait_for_port(upstream, "upstream")
        port = processes.free_port()
        server, problem = run.start_server(settings, contender, port,
                                           upstream_port)
        if problem:
            raise Failure(f"{contender.name}: {problem}")
        return drive(settings, (server, upstream), port, concurrency, perf)
    finally:
        if server:
            server.stop()
        upstream.stop()


def drive(settings, programs, port, concurrency, perf):
    """Run the load against a server; return the Run."""
    server, upstream = programs
    raw = os.path.join(settings.work, "samples")
    before = proc.counters(server.pids())
    faults_before = []
    recorder = Recorder(settings) if perf else None
    monitor = run.Monitor(server, upstream)
    load = run.Load(settings, port, concurrency,
                    ["--duration", f"{settings.duration:.3f}",
                     "--warmup", f"{settings.warmup:.3f}s"], raw)
    monitor.load = load.program.pid
    monitor.start()
    try:
        held = load.await_hold(
            settings.duration + settings.warmup + 60, programs,
            lambda: faults_before.append(faults(server.pids())))
    finally:
        monitor.stop()
        if recorder:
            recorder.stop()
    pids = server.pids()
    after = proc.counters(pids)
    faults_after = faults(pids)
    program = os.path.realpath(f"/proc/{pids[0]}/exe") if pids else ""
    figures = load.finish()
    if not held or not figures or not figures["right"]:
        raise Failure(f"a run went wrong: {server.ended() or ''} "
                      f"{load.complaint()}")
    why: list[str] = []
    row = {"why": why, "slowest_us": 0}
    window = run.find_window(row, raw, figures, monitor.readings)
    if not window:
        raise Failure(f"a run went wrong: {'; '.join(why)}")
    begin, end, requests = window
    replies = figures["replies"]
    classifier = Classifier(program)
    counted = count_rows(recorder.samples(pids), classifier,
                         (begin.ns, end.ns)) if recorder else {}
    rows, others = ({name: number * PERIOD_NS / 1e3 / requests
                     for name, number in each.items()}
                    for each in (counted, classifier.others))
    return Run(
        rows, others,
        (end.server.total_ns - begin.server.total_ns) / 1e3 / requests,
        ((after.voluntary - before.voluntary) / replies,
         (after.involuntary - before.involuntary) / replies),
        (faults_after - faults_before[0]) / replies if faults_before else 0,
        after.threads, (after.memory_kib - before.memory_kib) / concurrency,
        disturbed(begin, end))


def disturbed(begin, end):
    """Return what other programs did to a run, in words."""
    passed = end.ns - begin.ns
    machine = [late - early for early, late in zip(begin.machine,
                                                   end.machine)]
    ours = (end.server.total_ns - begin.server.total_ns + end.upstream -
            begin.upstream + end.load - begin.load + end.own_ns -
            begin.own_ns)
    return run.disturbances(max(machine[0] - ours, 0) / passed,
                            machine[1] / passed)


def events():
    """Return the events that can be counted here."""
    def known(event):
        return any(os.path.isdir(os.path.join(top, "events",
                                              *event.split(":")))
                   for top in TRACING)

    names = [TRACEPOINT.format(name) for names in COUNTED.values()
             for name in names]
    return (calls.EVENT, *filter(known, [*names, WAKE_UP]))


def count(settings, tracer, contender, point):
    """Return how often a request makes the system calls of each row, with
    ENTRY for all of them."""
    found = calls.count_events(settings, tracer, contender, point,
                               events()) if tracer else None
    if found is None:
        return {}
    counted = {ENTRY: found[calls.EVENT]}
    if WAKE_UP in found:
        counted[WAKE] = found[WAKE_UP]
    for row, names in COUNTED.items():
        counted[row] = sum(found.get(key, 0) for name in names
                           for key in (TRACEPOINT.format(name), name))
    return counted


class Side:
    """One of the two servers, and what its runs have shown."""

    def __init__(self, contender):
        self.contender = contender
        self.sampled = []  # the runs with perf
        self.plain = []  # and those without
        self.counts = {}

    def means(self, value):
        """Return the mean of each time in a table that each run has."""
        tables: list[dict[str, float]] = [value(each) for each in self.sampled]
        names = {name for each in tables for name in each}
        return {name: statistics.mean(each.get(name, 0) for each in tables)
                for name in names}

    def rows(self):
        return self.means(lambda each: each.rows)

    def others(self):
        """Return what most of OTHER_KERNEL is, in words; nothing if that is
        not much."""
        times = self.means(lambda each: each.others)
        if sum(times.values()) < MUCH * sum(self.rows().values()):
            return ""
        most = sorted(times, key=lambda name: -times[name])[:MOST_OTHERS]
        return (f"{OTHER_KERNEL} of {self.contender.name}: " + ", ".join(
            f"{times[name]:.2f} us {name}" for name in most))

    def mean(self, value):
        """Return the mean of a value of the runs without perf."""
        return statistics.mean(map(value, self.plain))

    def all_counts(self):
        """Return the counts of each row."""
        return {**self.counts,
                SWITCH: self.mean(lambda each: sum(each.switches)),
                MEMORY: self.mean(lambda each: each.faults)}


def measure(settings, sides, point, repeat, perf):
    """Make all runs of both sides, interleaved."""
    for repetition in range(1, repeat + 1):
        plans = [(side, way) for side in sides
                 for way in ((True, False) if perf else (False,))]
        random.Random(f"{repetition} {point}").shuffle(plans)
        for side, way in plans:
            done = try_run(settings, side, point, way)
            (side.sampled if way else side.plain).append(done)
            say(f"breakdown: [{repetition}/{repeat}] {side.contender.name}"
                f"{', with perf' if way else ''}: {done.clock_us:.1f} us a "
                "request" + "".join(f"; DISTURBED: {why}"
                                    for why in done.disturbed))


def try_run(settings, side, point, way):
    """Make a run, again if other programs disturb it; return the last."""
    for _ in range(TRIES):
        done = one_run(settings, side.contender, point, way)
        if not done.disturbed:
            break
    return done


def line(name, cells):
    """Return a line of the table."""
    return (f"{name:<28}" + "".join(f"{cell:>8}" for cell in cells)).rstrip()


def compared(name, values, counts=(None, None)):
    """Return a line: the time and the count of each side, the difference."""
    cells = []
    for pair in zip(values, counts):
        cells += ["" if value is None else f"{value:.2f}" for value in pair]
    for early, late in values, counts:
        cells.append("" if None in (early, late)
                     else f"{late - early:+.2f}")
    return line(name, cells)


def fold(rows):
    """Move what is small on both sides to the row of other libraries."""
    fixed = {*OWN_FIRST, *KERNEL_ROWS, OTHER_USER}
    for name in {*rows[0], *rows[1]} - fixed:
        if all(each.get(name, 0) < SMALL_US for each in rows):
            for each in rows:
                each[OTHER_USER] = each.get(OTHER_USER, 0) + \
                    each.pop(name, 0)
    return rows


def split(sides, counts):
    """Return the lines of the table for two sides that perf has sampled."""
    rows = fold([side.rows() for side in sides])
    libraries = sorted({*rows[0], *rows[1]} - {*OWN_FIRST, *KERNEL_ROWS,
                                               OTHER_USER})
    lines = []
    for title, group in (
            ("in user space", [*OWN_FIRST, *libraries, OTHER_USER]),
            ("in the kernel", KERNEL_ROWS)):
        lines.append(compared(title, [sum(each.get(name, 0) for name in group)
                                      for each in rows]))
        lines += [
            compared(f"  {name}", [each.get(name, 0) for each in rows],
                     [side.get(name) for side in counts])
            for name in group if any(each.get(name) for each in rows)]
    lines.append(compared("sum of the rows", [sum(each.values())
                                              for each in rows]))
    lines.append(compared("CPU clock, the same runs", clocks(sides,
                                                             "sampled")))
    return lines


def clocks(sides, runs):
    return [statistics.mean(each.clock_us for each in getattr(side, runs))
            for side in sides]


def report(sides, point):
    """Return the lines of the table, and of what else the runs have shown."""
    counts = [side.all_counts() for side in sides]
    names = [side.contender.name for side in sides]
    runs = len(sides[0].plain)
    when = f"after {point[1]:g} ms" if point[1] else "at once"
    lines = wrap(
        f"A is {names[0]}, B is {names[1]}: {results.connections(point[0])}, "
        f"an upstream that answers {when}; means of {runs} "
        f"run{'' if runs == 1 else 's'} each, per request.")
    lines += ["", line("", ["A, us", "count", "B, us", "count", "B - A",
                            "count"])]
    if sides[0].sampled:
        lines += split(sides, counts)
    else:
        lines += [compared(name, [None, None], [side.get(name)
                                                for side in counts])
                  for name in KERNEL_ROWS if any(side.get(name)
                                                 for side in counts)]
    lines.append(compared("CPU clock, without perf", clocks(sides, "plain")))
    return lines + [""] + notes(sides)


def notes(sides):
    """Return what else the runs have shown, a line each."""
    table = []
    for words, value in (
            ("switches because it waited, per request",
             lambda each: each.switches[0]),
            ("switches because it was preempted", lambda each:
             each.switches[1]),
            ("threads", lambda each: each.threads),
            ("resident memory per connection, KiB", lambda each:
             each.memory_kib)):
        pair = [side.mean(value) for side in sides]
        table.append(f"{words:<44}" + "".join(f"{each:>16,.2f}"
                                              for each in pair))
    for side in sides:
        if side.others():
            table += wrap(side.others())
    differences = [late.clock_us - early.clock_us for early, late in
                   zip(sides[0].plain, sides[1].plain)]
    if len(differences) > 1:
        table += wrap(
            "Without perf the difference was "
            f"{min(differences):+.2f} to {max(differences):+.2f} us in the "
            f"{len(differences)} pairs of runs.")
    return table
