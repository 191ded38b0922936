# SPDX-License-Identifier: MIT
"""Works out what each thread of a server does at each moment.

How it is decided:

- perf says when a thread is on a core, when it is made ready, and when it is
  in a system call. On a core and in none it runs in user space; interrupts and
  page faults count there too.
- What a sleeping thread waits for follows from its system call. A call on a
  descriptor waits for the other end of it: a client, the upstream, a new
  connection. A futex, a pipe or an eventfd is another thread: a lock, or work
  that is handed over.
- poll, select, epoll and io_uring hide what they wait for. A thread that
  serves one client only waits there for what it reads or writes next. One that
  serves several is a loop, and waits for any of them.
- Descriptors are looked up in /proc once every connection has had a reply;
  from then on accept, connect and close are followed.
- Each client's lines have a length of their own, so the bytes that a call
  moves tell whose request it is: for the client's connection from its port,
  for the upstream's from the length of the request that was sent on it last.
- A loop works for a client from when it has read for him; what comes before it
  writes belongs to whom it writes for. From a wait to the first such call, the
  time belongs to that call's client.
- An io_uring's requests count as the calls that they stand for, from where the
  kernel begins with them. In between a loop handles what it has been given in
  one go; that time is divided evenly among those for whom it submits next.

With strace there are no cores: a thread waits in a call that takes long and
is of a kind that waits, and else it runs, or would like to.
"""

import collections
import os
import select
import statistics
import tempfile
import time

from . import proc, processes, run, tracing
from .processes import Failure

LINE_SIZE = 32  # bytes of the first client's lines
LINE_STEP = 3  # how much longer the next one's are
MOST_CLIENTS = 16  # their replies' lengths have two digits
RECORDED_MS = 300.0  # longer than the window, which is chosen from it
WARMUP = 0.2  # seconds, once each connection has had a reply
TRIES = 3  # while the machine is busy
SPARE = 1.5  # seconds that the load goes on for after the recording
LEAST_WAIT_NS = 200000  # under strace, where no call is quick
ZOOM = 20  # how much shorter the enlarged part is

READS = frozenset(("read", "readv", "recvfrom", "recvmsg", "recv"))
WRITES = frozenset(("write", "writev", "sendto", "sendmsg", "send",
                    "sendfile"))
ACCEPTS = frozenset(("accept", "accept4"))
POLLS = frozenset(("poll", "ppoll", "select", "pselect6", "epoll_wait",
                   "epoll_pwait", "epoll_pwait2", "io_uring_enter",
                   "restart_syscall"))  # a poll, once a tracer has come
FUTEXES = frozenset(("futex", "futex_waitv", "futex_wait"))
SLEEPS = frozenset(("wait4", "waitid", "nanosleep", "clock_nanosleep",
                    "rt_sigtimedwait", "pause", "rt_sigsuspend"))
ON_DESCRIPTORS = READS | WRITES | ACCEPTS | {"connect", "close"}
WAITING_CALLS = READS | WRITES | ACCEPTS | POLLS | FUTEXES | SLEEPS | {
    "connect"}

# What a thread can be doing; the last is for strace alone.
STATES = {
    "user": "runs in user space",
    "kernel": "runs in the kernel",
    "ready": "ready, waits for a core",
    "client": "waits for the client",
    "upstream": "waits for the upstream",
    "lock": "waits for a lock or a thread",
    "any": "waits for whoever is next",
    "other": "waits for something else",
    "running": "runs, or is ready to",
}
ON_CORE = ("user", "kernel", "running")


class Role:
    """What a descriptor is for: client, upstream, listener, thread, any or
    other."""

    def __init__(self, kind, client=None):
        self.kind = kind
        self.client = client  # the number of the client, from 0, or None


OTHER = Role("other")


class Call:
    """A system call of a thread."""

    def __init__(self, name, descriptor=tracing.NO_DESCRIPTOR, role=OTHER):
        self.name = name
        self.descriptor = descriptor
        self.role = role
        self.start = self.end = 0
        self.result = 0
        self.owner = None  # the number of the client it is made for
        self.ring = False  # whether it is a request to an io_uring
        self.parts: list[Call] = []  # the requests that it submits

    def is_transfer(self):
        """Return whether it reads or writes for a client's request."""
        return self.role.kind in ("client", "upstream") \
            and self.name in READS | WRITES

    def has_moved(self):
        """Return whether it has read or written anything. An io_uring may be
        asked not to report success."""
        return self.unreported() or self.result > 0

    def unreported(self):
        return self.ring and self.result == 0 and self.name in WRITES

    def seen(self):
        """Return when what it has read is there: a request to an io_uring may
        have waited for it."""
        return self.end if self.ring else self.start


class Piece:
    """A time in which a thread does one thing."""

    def __init__(self, start, state, call=None):
        self.start = start
        self.end = start
        self.state = state
        self.call = call
        self.part = None  # the request to an io_uring that it serves
        self.owner = None  # the number of the client it runs for


class Thread:
    """A thread, and what it does from piece to piece, without a gap."""

    def __init__(self, tid, pid, name, begin):
        self.tid = tid
        self.pid = pid
        self.name = name
        self.born = begin
        self.pieces: list[Piece] = []
        self.calls: list[Call] = []
        self.call = None  # that it is in
        self.events = 0
        self.served: set[int] = set()  # the numbers of its clients

    @property
    def loop(self):
        return len(self.served) > 1

    def turn(self, ns, state, call=None):
        """Do something else from now on."""
        if self.pieces:
            self.pieces[-1].end = ns
        self.pieces.append(Piece(ns, state, call))

    def begin_with(self, event):
        """Fill in what it did before the first event that is known of it."""
        before = {"in": "ready", "wake": "asleep", "out": "user",
                  "enter": "user", "exit": "kernel"}.get(event.kind, "user")
        if event.kind == "exit":
            self.enter(self.born, Call(event.what))
        else:
            self.turn(self.born, before)

    def enter(self, ns, call):
        call.start = ns
        self.call = call
        self.calls.append(call)
        self.turn(ns, "kernel", call)

    def leave(self, event):
        """Return from a system call; give it back with its result."""
        if not self.call:  # it was asleep in it when the recording began
            self.call = Call(event.what)
            self.call.start = self.born
            self.calls.append(self.call)
            for piece in self.pieces:
                piece.call = self.call
        call, self.call = self.call, None
        call.end, call.result = event.ns, event.value
        self.turn(event.ns, "user")
        return call


class Builder:
    """Follows the events, and makes the threads of them."""

    def __init__(self, begin, threads, tables, sizes):
        self.begin = begin
        self.threads = threads  # by tid
        self.tables = tables  # by pid: descriptor to Role
        self.sizes = sizes  # the length of each client's lines
        self.submitted: dict[str, Call] = {}  # to an io_uring, by request

    def follow(self, events):
        for event in events:
            thread = self.threads.get(event.tid)
            if thread:
                if not thread.pieces:
                    thread.begin_with(event)
                thread.events += 1
                self.take(thread, event)

    def take(self, thread, event):
        if event.kind == "in":
            thread.turn(event.ns, "kernel" if thread.call else "user",
                        thread.call)
        elif event.kind == "out":
            ready = event.what.startswith("R")
            thread.turn(event.ns, "ready" if ready else "asleep",
                        thread.call)
        elif event.kind == "wake":
            if thread.pieces[-1].state == "asleep":
                thread.turn(event.ns, "ready", thread.call)
        elif event.kind == "enter":
            thread.enter(event.ns, self.call_of(thread, event))
        elif event.kind == "exit":
            self.note(thread, thread.leave(event))
        elif event.kind == "submit":
            self.submit(thread, event)
        elif event.kind == "complete":
            self.complete(thread, event)
        elif event.kind == "fork" and event.value not in self.threads:
            child = Thread(event.value, thread.pid, thread.name, event.ns)
            self.threads[event.value] = child

    def call_of(self, thread, event):
        # the first argument of others may be as small, and is none
        role = self.table(thread).get(event.value, OTHER) \
            if event.what in ON_DESCRIPTORS else OTHER
        return Call(event.what, event.value, role)

    def submit(self, thread, event):
        """Note that the kernel begins with a request to an io_uring."""
        call = self.call_of(thread, event)
        call.ring = True
        call.start = call.end = event.ns
        self.submitted[event.request] = call
        thread.calls.append(call)
        if thread.call:
            thread.call.parts.append(call)
        if thread.pieces[-1].state == "kernel":
            thread.turn(event.ns, "kernel", thread.call)
            thread.pieces[-1].part = call

    def complete(self, thread, event):
        call = self.submitted.pop(event.request, None)
        if not call:
            return  # the recording began after it
        call.end, call.result = event.ns, event.value
        self.note(thread, call)
        if thread.pieces[-1].state == "kernel":
            if not thread.pieces[-1].part:
                thread.pieces[-1].part = call
            thread.turn(event.ns, "kernel", thread.call)

    def table(self, thread):
        return self.tables.setdefault(thread.pid, {})

    def note(self, thread, call):
        """Follow what a finished call does to the descriptors."""
        table = self.table(thread)
        if call.name in ACCEPTS and call.result >= 0:
            table[call.result] = Role("client")
        elif call.name == "connect" and call.role is OTHER:
            table[call.descriptor] = Role("upstream")
        elif call.name == "close":
            table.pop(call.descriptor, None)
        elif call.name in READS and call.role.kind == "client" \
                and call.role.client is None \
                and call.result - 1 in self.sizes:
            call.role.client = self.sizes.index(call.result - 1)


def find_owners(threads, sizes):
    """Say for each transfer whose request it is for.

    Where the length of a request to the upstream is not reported, its answer's
    tells.
    """
    calls = sorted(((call, thread) for thread in threads
                    for call in thread.calls if call.is_transfer()),
                   key=lambda pair: pair[0].end)
    added, answered = (
        added_bytes([call.result for call, _ in calls
                     if call.role.kind == "upstream" and call.name in names],
                    sizes) for names in (WRITES, READS))
    using: dict[Role, int | None] = {}  # whose request each connection has
    unknown: dict[Role, list[Call]] = {}  # transfers before an answer
    for call, thread in calls:
        if call.role.kind == "client":
            call.owner = call.role.client
            if call.owner is not None:
                thread.served.add(call.owner)
            continue
        if call.unreported():
            using[call.role] = None
            unknown[call.role] = []
        elif call.name in WRITES and call.result - added in sizes:
            using[call.role] = sizes.index(call.result - added)
        elif call.role in unknown and call.result - answered in sizes:
            owner = sizes.index(call.result - answered)
            using[call.role] = owner
            for earlier in unknown.pop(call.role):
                earlier.owner = owner
        call.owner = using.get(call.role)
        if call.role in unknown:
            unknown[call.role].append(call)


def added_bytes(lengths, sizes):
    """Return by how much these are longer than the lines in them: the number
    that explains most of them."""
    counts = collections.Counter(length for length in lengths if length > 0)
    return max({length - size for length in counts for size in sizes if
                length >= size}, default=0,
               key=lambda more: sum(counts[size + more] for size in sizes))


def name_waits(thread):
    """Say what the thread waits for where it is asleep."""
    following = "any"  # what it reads or writes after the call
    after = {}
    for call in reversed(thread.calls):
        if call.role.kind in ("client", "upstream", "listener"):
            following = "client" if call.role.kind == "listener" \
                else call.role.kind
        after[call] = following
    for piece in thread.pieces:
        if piece.state == "asleep":
            piece.state = wait_of(piece.call, thread.loop,
                                  after.get(piece.call, "any"))


def wait_of(call, loop, following):
    if call is None:
        return "other"
    if call.name in POLLS:
        return "any" if loop else following
    if call.name in FUTEXES or call.role.kind == "thread":
        return "lock"
    if call.name in ACCEPTS or call.role.kind == "listener":
        return "client"
    return call.role.kind if call.role.kind in ("client", "upstream") \
        else "other"


def assign(thread):
    """Say whose request a loop runs at each moment that it runs."""
    burst: list[Piece] = []
    for piece in [*thread.pieces, Piece(0, "asleep")]:
        waits = piece.state not in (*ON_CORE, "ready") or (
            piece.call and piece.call.name in POLLS | FUTEXES)
        if not waits:
            burst.append(piece)
        elif burst:
            assign_burst(burst)
            burst = []


def assign_burst(burst):
    """Share the pieces between two waits out among the transfers in them."""
    following: list[Call | None] = [None] * len(burst)
    later = None
    for index in range(len(burst) - 1, -1, -1):
        call = burst[index].call
        if call and call.owner is not None:
            later = call
        following[index] = later
    earlier = None
    for piece, next_call in zip(burst, following):
        if piece.call and piece.call.owner is not None:
            earlier = piece.call
            chosen = earlier
        elif earlier is None or (next_call and next_call.name in WRITES):
            chosen = next_call or earlier
        else:
            chosen = earlier
        piece.owner = chosen.owner if chosen else None


def assign_rings(thread):
    """Say the same of a loop over an io_uring, where nothing else tells."""
    pieces: list[Piece] = []
    stretch: list[Piece] = []  # what it has run since it last submitted
    entered = None
    for piece in thread.pieces:
        if piece.part:
            piece.owner = piece.part.owner
        call = piece.call
        if call is None:
            stretch += [piece] if piece.state == "user" else []
        elif call.name == "io_uring_enter" and call is not entered:
            entered = call
            divide(stretch, list(dict.fromkeys(
                part.owner for part in call.parts
                if part.owner is not None)), pieces)
            stretch = []
        pieces.append(piece)
    thread.pieces = sorted(pieces, key=lambda piece: piece.start)


def divide(stretch, owners, pieces):
    """Divide the pieces evenly; add those that are new to pieces."""
    if not owners or any(piece.owner is not None for piece in stretch):
        return
    share = sum(piece.end - piece.start for piece in stretch) / len(owners)
    before = 0
    for piece in stretch:
        while True:
            index = min(int(before / share), len(owners) - 1)
            piece.owner = owners[index]
            left = int(share * (index + 1)) - before
            if index + 1 == len(owners) or piece.end - piece.start <= left \
                    or left <= 0:
                before += piece.end - piece.start
                break
            rest = Piece(piece.start + left, piece.state, piece.call)
            rest.end, piece.end = piece.end, rest.start
            before += left
            pieces.append(rest)
            piece = rest


def without_cores(thread):
    """Turn the pieces of strace into waits and the rest."""
    for piece in thread.pieces if thread.events else ():
        long = piece.end - piece.start >= LEAST_WAIT_NS
        waits = piece.call and piece.call.name in WAITING_CALLS and long
        piece.state = "asleep" if waits else "running"


def build(tracer, events, span, threads, tables, sizes):
    """Return the threads with their pieces; threads is what there was when
    the recording began."""
    begin, end = span
    builder = Builder(begin, threads, tables, sizes)
    builder.follow(event for event in events if begin <= event.ns <= end)
    for thread in threads.values():
        if not thread.pieces:
            thread.turn(thread.born, "asleep")
        thread.pieces[-1].end = end
        thread.pieces = [piece for piece in thread.pieces
                         if piece.end > piece.start]
    active = list(threads.values())
    find_owners(active, sizes)
    for thread in active:
        if tracer == "strace":
            without_cores(thread)
        name_waits(thread)
        assign(thread)
        if any(call.ring for call in thread.calls):
            assign_rings(thread)
    return active


def overlap(piece, begin, end):
    return max(min(piece.end, end) - max(piece.start, begin), 0)


def spent(threads, states, begin, end):
    """Return the time that the threads spend in these states, in ns."""
    return sum(overlap(piece, begin, end) for thread in threads
               for piece in thread.pieces if piece.state in states)


def replies(threads):
    """Return when each reply was written."""
    return sorted(call.end for thread in threads for call in thread.calls
                  if call.role.kind == "client" and call.name in WRITES
                  and call.has_moved())


def in_steps(threads, states, span, step):
    """Return the time in these states in each step of the span, in ns."""
    begin, end = span
    found = [0] * ((end - begin) // step)
    for thread in threads:
        for piece in thread.pieces:
            if piece.state in states:
                first = max((piece.start - begin) // step, 0)
                last = min((piece.end - begin) // step, len(found) - 1)
                for index in range(first, last + 1):
                    start = begin + index * step
                    found[index] += overlap(piece, start, start + step)
    return found


def windows(steps, count):
    """Return the sums of each count steps in a row."""
    return [sum(steps[start:start + count])
            for start in range(len(steps) - count + 1)]


def choose_window(threads, span, length):
    """Return when the window begins that has most nearly the median of the
    replies, of the time on a core and of the time without one."""
    step = length // ZOOM
    written = [0] * ((span[1] - span[0]) // step)
    for ns in replies(threads):
        index = (ns - span[0]) // step
        if 0 <= index < len(written):
            written[index] += 1
    figures = list(zip(*(windows(steps, ZOOM) for steps in (
        written, in_steps(threads, ON_CORE, span, step),
        in_steps(threads, ("ready",), span, step)))))
    if not figures:
        raise Failure("the recording is shorter than the window")
    middle = [statistics.median(column) or 1 for column in zip(*figures)]

    def distance(index):
        return sum(abs(value / typical - 1) for value, typical
                   in zip(figures[index], middle))
    return span[0] + step * min(range(len(figures)), key=distance)


def choose_zoom(threads, begin, length):
    """Return when the busiest part of the window begins."""
    step = length // ZOOM // 10
    sums = windows(in_steps(threads, ON_CORE, (begin, begin + length), step),
                   10)
    return begin + step * sums.index(max(sums))


class Timeline:
    """What was seen in the window, in microseconds from its start."""

    def __init__(self, contender, tracer, settings):
        self.contender = contender
        self.tracer = tracer
        self.settings = settings
        self.threads: list[dict] = []
        self.fetches: list[list] = []  # from, to, client
        self.zoom = 0.0
        self.replies = 0
        self.idle = 0  # threads that did nothing
        self.accounted: dict[str, float] = {}

    def take(self, threads, begin, zoom):
        """Cut the window out of the whole recording."""
        length = self.settings.length
        end = begin + length
        self.zoom = (zoom - begin) / 1e3
        self.replies = sum(begin <= ns < end for ns in replies(threads))
        for thread in sorted(threads, key=row_order):
            pieces = [cut(piece, begin, end) for piece in thread.pieces
                      if overlap(piece, begin, end)]
            if len(pieces) < 2 and (
                    not pieces or pieces[0][2] not in ON_CORE):
                self.idle += bool(pieces)
                continue
            self.threads.append({
                "tid": thread.tid, "pid": thread.pid, "name": thread.name,
                "loop": thread.loop,
                "client": next(iter(thread.served)) + 1
                if len(thread.served) == 1 else None,
                "pieces": pieces})
        self.fetches = fetches(threads, begin, end)

    def json(self):
        """Return all of it as a dictionary."""
        return {"contender": self.contender.name, "traced_by": self.tracer,
                "milliseconds": self.settings.milliseconds,
                "clients": self.settings.clients,
                "delay_ms": self.settings.delay_ms, "zoom_us": self.zoom,
                "replies": self.replies, "idle_threads": self.idle,
                "cpu": self.accounted, "threads": self.threads,
                "fetches": self.fetches}


def row_order(thread):
    """Loops and others first, then the connections' threads by client."""
    alone = len(thread.served) == 1
    return (alone, min(thread.served) if alone else 0, thread.tid)


def cut(piece, begin, end):
    """Return [from us, to us, state, client or None] within the window."""
    return [(max(piece.start, begin) - begin) / 1e3,
            (min(piece.end, end) - begin) / 1e3, piece.state,
            None if piece.owner is None else piece.owner + 1]


def fetches(threads, begin, end):
    """Return when each client's request was with the upstream: from where it
    was sent until its answer was read."""
    calls = sorted((call for thread in threads for call in thread.calls
                    if call.role.kind == "upstream" and call.is_transfer()
                    and call.owner is not None and call.has_moved()),
                   key=lambda call: call.end)
    sent: dict[Role, Call] = {}
    found = []
    for call in calls:
        if call.name in WRITES:
            sent[call.role] = call
        elif call.role in sent:
            first = sent.pop(call.role)
            if first.end < end and call.seen() > begin:
                found.append([max(first.end - begin, 0) / 1e3,
                              (min(call.seen(), end) - begin) / 1e3,
                              call.owner + 1])
    return found


class Settings(run.Settings):
    """How a recording is made."""

    def __init__(self, root, output, args):
        seconds = (args.milliseconds + RECORDED_MS) / 1e3
        super().__init__(root, output, seconds + SPARE, WARMUP, (None, None))
        self.milliseconds = args.milliseconds
        self.clients = args.clients
        self.delay_ms = args.delay
        self.recorded = seconds
        self.tracer = tracing.choose(args.trace)

    @property
    def length(self):
        return int(self.milliseconds * 1e6)

    @property
    def sizes(self):
        return [LINE_SIZE + LINE_STEP * client
                for client in range(self.clients)]


def tcp_sockets():
    """Return (local port, remote port, is listening) of each inode."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in proc.read(f"/proc/net/{table}").splitlines()[1:]:
            words = line.split()
            found[words[9]] = (int(words[1].rpartition(":")[2], 16),
                               int(words[2].rpartition(":")[2], 16),
                               words[3] == proc.LISTEN)
    return found


def role_of(target, sockets, ports, clients):
    """Return the role of a descriptor, given what /proc says it is.

    ports are the server's and the upstream's; clients has the numbers of the
    clients by their ports.
    """
    if target.startswith("socket:["):
        local, remote, listening = sockets.get(target[8:-1], (0, 0, False))
        if local == ports[0]:
            return Role("listener") if listening else \
                Role("client", clients.get(remote))
        return Role("upstream") if remote == ports[1] and remote \
            else Role("thread")
    if target.startswith("pipe:[") or "eventfd" in target:
        return Role("thread")
    return OTHER


def descriptors(pid, sockets, ports, clients):
    """Return the roles of a process's descriptors."""
    found = {}
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            found[int(number)] = role_of(target, sockets, ports, clients)
    except OSError:
        pass  # it has ended
    return found


def threads_of(pids, begin):
    """Return the threads of these processes, by tid."""
    found = {}
    for pid in pids:
        try:
            tids = [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            continue  # it has ended
        for tid in tids:
            name = proc.read(f"/proc/{pid}/task/{tid}/comm").strip()
            found[tid] = Thread(tid, pid, name or "?", begin)
    return found


def client_ports(loads, port):
    """Return the number of each client by its port."""
    sockets = tcp_sockets()
    found = {}
    for number, load in enumerate(loads):
        for inode in proc.held_sockets(load.program.pid):
            local, remote, _ = sockets.get(inode, (0, 0, False))
            if remote == port:
                found[local] = number
    return found


def await_replies(loads, server):
    """Wait until each client has had a reply."""
    limit = time.monotonic() + run.LOAD_PATIENCE
    for load in loads:
        stream = load.program.process.stderr
        while "each answered" not in load.messages:
            data = b""
            if select.select([stream], [], [], 0.2)[0]:
                data = os.read(stream.fileno(), 65536)
                load.messages += data.decode("utf-8", "replace")
            if server.ended() or load.program.ended() \
                    or time.monotonic() > limit:
                raise Failure(f"no reply to a client: {load.complaint()} "
                              f"{server.tail()}")


def make(root, contender, args):
    """Record a contender; return its Timeline."""
    for _ in range(TRIES - 1):
        try:
            return make_once(root, contender, args)
        except tracing.Busy:
            pass
    try:
        return make_once(root, contender, args)
    except tracing.Busy as busy:
        raise Failure(f"{contender.name}: the machine is too busy: "
                      f"{busy}") from busy


def make_once(root, contender, args):
    with tempfile.TemporaryDirectory(prefix="timeline.") as work:
        settings = Settings(root, work, args)
        upstream = run.start_upstream(settings, contender, settings.delay_ms)
        server = None
        try:
            ports = [0, processes.wait_for_port(upstream, "upstream")]
            ports[0] = processes.free_port()
            server, problem = run.start_server(settings, contender, *ports)
            if problem:
                raise Failure(f"{contender.name}: {problem}")
            return record(settings, contender, server, ports)
        finally:
            if server:
                server.stop()
            upstream.stop()


def record(settings, contender, server, ports):
    """Load a server, record what it does, and return its Timeline."""
    tracer = tracing.start(settings.tracer, settings, server)
    loads = []
    try:
        for size in settings.sizes:
            loads.append(run.Load(
                settings, ports[0], 1,
                ["--duration", f"{settings.duration:.3f}", "--warmup",
                 f"{settings.warmup:.3f}s", "--line-size", str(size)],
                "/dev/null"))
        limit = time.monotonic() + settings.duration
        await_replies(loads, server)
        clients = client_ports(loads, ports[0])
        sockets = tcp_sockets()
        tables = {pid: descriptors(pid, sockets, ports, clients)
                  for pid in server.pids()}
        begin = tracer.begin()
        threads = threads_of(server.pids(), begin)
        used, since = server.account.usage(), time.monotonic_ns()
        time.sleep(settings.recorded)
        more, until = server.account.usage(), time.monotonic_ns()
        if time.monotonic() > limit:
            raise tracing.Busy("the load had ended before the recording")
        tracer.end()
        for tid, thread in threads_of(server.pids(), begin).items():
            if tid in threads:  # the name may be set late
                threads[tid].name = thread.name
        finish(settings, loads, server)
        events = tracer.events(set(threads))
    finally:
        tracer.stop()
        for load in loads:
            load.program.stop(patience=0)
    done = build(tracer.name, events, (begin, until), threads, tables,
                 settings.sizes)
    settled = begin + int(2 * settings.delay_ms * 1e6)
    window = choose_window(done, (settled, until), settings.length)
    timeline = Timeline(contender, tracer.name, settings)
    timeline.take(done, window, choose_zoom(done, window, settings.length))
    timeline.accounted = {
        "seconds": (until - since) / 1e9,
        "accounted_us": (more.total_ns - used.total_ns) / 1e3,
        "traced_us": spent(done, ON_CORE, since, until) / 1e3}
    if not timeline.replies:
        raise Failure(f"{contender.name}: no reply was seen" + (
            "; strace does not see an io_uring's requests"
            if tracer.name == "strace" else ""))
    return timeline


def finish(settings, loads, server):
    """Let the clients end, and check that each reply was right."""
    for load in loads:
        held = load.await_hold(settings.duration + run.LOAD_PATIENCE,
                               (server,))
        figures = load.finish() if held else None
        if not figures or not figures["right"]:
            raise Failure(f"a client got a wrong reply, or none: "
                          f"{load.complaint()}")
