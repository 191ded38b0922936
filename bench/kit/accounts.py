# SPDX-License-Identifier: MIT
"""Finds every process that a command starts, and the CPU time they use.

A server may leave its session, fork twice or outlive the program that was
started. All of its CPU time counts, and nothing of it may be left when it is
stopped. A control group lists its processes and has the CPU time of all of
them, ended ones included. Where no group can be made, an account finds the
processes through their parents and a variable in their environment.
"""

import collections
import functools
import itertools
import os
import re
import signal
import time

from . import proc

VARIABLE = "THREADECHO_ACCOUNT"  # in the environment of each process
GROUP = "threadecho-{}-{}"
KILL_PATIENCE = 10  # seconds; a broken disk outlasts SIGKILL

Usage = collections.namedtuple("Usage", "total_ns user_ns system_ns")

counter = itertools.count(1)
opened: list["Account"] = []  # accounts that are not closed


def open_account(untrusted):
    """Return a new account: a group if one can be made, or else a tree.

    An untrusted program is not part of the kit. Only such a program leaves
    orphans.
    """
    parent = group_parent()
    if parent and groups_work(parent):
        path = new_group(parent)
        os.mkdir(path)
        return Group(path, untrusted)
    return Tree(untrusted)


def new_group(parent):
    return os.path.join(parent, GROUP.format(os.getpid(), next(counter)))


def join_group(path):
    """Move the calling process into a group."""
    with open(os.path.join(path, "cgroup.procs"), "w",
              encoding="ascii") as file:
        file.write("0")


@functools.cache
def groups_work(parent):
    """Return whether a process of ours can be in a group of its own.

    To make a group is not enough: the kernel may still refuse to move a
    process from ours into it.
    """
    remove_stale(parent)
    path = new_group(parent)
    try:
        os.mkdir(path)
    except OSError:
        return False  # not permitted, or a read-only mount
    child = os.fork()
    if child == 0:
        try:
            join_group(path)
            os._exit(0)
        except OSError:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    os.rmdir(path)
    return status == 0


def remove_stale(parent):
    """Remove the empty groups that a killed bench has left."""
    for name in os.listdir(parent):
        found = re.fullmatch(GROUP.format(r"(\d+)", r"\d+"), name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            try:
                os.rmdir(os.path.join(parent, name))
            except OSError:
                pass  # it has processes, or is not ours


def group_parent():
    """Return the directory of our own control group (version 2), or None."""
    own = None
    for line in proc.read("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            own = line[3:]
    for line in proc.read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if own and after.split()[:1] == ["cgroup2"]:
            root, mounted = before.split()[3:5]
            if own == root or own.startswith(root.rstrip("/") + "/"):
                return mounted + own[len(root.rstrip("/")):]
    return None


class Account:
    """The processes of one command."""

    def __init__(self, untrusted):
        self.name = f"{os.getpid()}-{next(counter)}"
        self.untrusted = untrusted
        self.began = proc.now_ticks()
        self.root = None  # the command's process
        self.strangers = set()  # roots that the command did not start
        opened.append(self)

    def environment(self):
        """Return what the command's environment needs."""
        return {VARIABLE: self.name}

    def join(self):
        """Enter the account: called in the command's process, before exec."""

    def enter(self, pid):
        """Note the command's process, once it has been started."""
        self.root = pid

    def own_pids(self):
        """Return the live processes that the command started."""
        raise NotImplementedError

    def related(self, more=()):
        """Return the live processes that are known by their parents, or by
        the variable in their environment; more are known already.

        An orphan without the variable of an open account is ours if it can be
        no other account's.
        """
        me = os.getpid()
        parents = proc.parents()
        roots = {self.root, *more} & set(parents)
        names = {account.name for account in opened}
        alone = self.untrusted and sum(account.untrusted
                                       for account in opened) == 1
        for pid, parent in parents.items():
            if parent == me and pid not in proc.started:
                name = proc.environment_of(pid).get(VARIABLE)
                if name == self.name or (alone and name not in names):
                    roots.add(pid)
        return proc.descendants(roots, parents)

    def find_strays(self):
        """Return the live processes that have left a group, and count them as
        strangers from now on."""
        return set()

    def pids(self):
        """Return all live processes, sorted."""
        return sorted({*self.own_pids(), *self.stranger_pids()})

    def stranger_pids(self):
        return proc.descendants(self.strangers) if self.strangers else set()

    def may_end(self):
        """Return the live processes that are ours to end: of the strangers
        only those that have been started since."""
        return sorted({*self.own_pids(),
                       *(pid for pid in self.stranger_pids()
                         if proc.start_ticks(pid) >= self.began)})

    def usage(self, pids=None):
        """Return the CPU time used so far, and its approximate split.

        pids is a recent result of pids(). Without it a tree looks for its
        processes again.
        """
        return used_by(self.pids() if pids is None else pids)

    def reading(self, pids):
        """Return the time in ns, and the usage at that time."""
        return time.monotonic_ns(), self.usage(pids)

    def usable(self, readings):
        """Return those readings of a Monitor that can be compared."""
        return readings

    def counters(self):
        """Return what the live processes have used, as the kernel counts."""
        return proc.counters(self.pids())

    def memory_kib(self):
        """Return the resident memory of the live processes."""
        return proc.memory_kib(self.pids())

    def counts_ended(self):
        """Return whether usage() includes processes that have ended."""
        return False

    def kill(self):
        """Kill all processes; return whether none is left."""
        limit = time.monotonic() + KILL_PATIENCE
        while pids := self.may_end():
            for pid in pids:
                proc.send_signal(pid, signal.SIGKILL)
            proc.reap_orphans()
            if time.monotonic() > limit:
                return False
            time.sleep(0.005)
        return True

    def close(self):
        """Kill whatever is left; return whether that worked."""
        gone = self.kill()
        proc.reap_orphans()
        if self in opened:
            opened.remove(self)
        return gone


def used_by(pids):
    """Return the usage of live processes."""
    counted = proc.cpu_ticks(pids)
    return Usage(proc.cpu_ns(pids), *(ticks * proc.TICK_NS
                                      for ticks in counted))


class Group(Account):
    """A control group."""

    def __init__(self, path, untrusted):
        super().__init__(untrusted)
        self.path = path

    def join(self):
        join_group(self.path)

    def own_pids(self):
        found = []
        for directory, _, _ in os.walk(self.path):
            found += [int(word) for word in proc.read(
                os.path.join(directory, "cgroup.procs")).split()]
        return [pid for pid in found if pid]  # 0 is one that we can't see

    def find_strays(self):
        members = set(self.own_pids())
        strays = self.related(members) - members - self.stranger_pids()
        self.strangers |= strays
        return strays

    def cpu_stat(self):
        words = proc.read(os.path.join(self.path, "cpu.stat")).split()
        return dict(zip(words[::2], words[1::2]))

    def usage(self, pids=None):
        stat = self.cpu_stat()
        names = ("usage_usec", "user_usec", "system_usec")
        if not all(name in stat for name in names):
            return super().usage(pids)
        others = used_by(self.stranger_pids())
        return Usage(*(int(stat[name]) * 1000 + more
                       for name, more in zip(names, others)))

    def counts_ended(self):
        return not self.strangers and "usage_usec" in self.cpu_stat()

    def kill(self):
        try:
            with open(os.path.join(self.path, "cgroup.kill"), "w",
                      encoding="ascii") as file:
                file.write("1")  # at once, so that none can fork first
        except OSError:
            pass  # before Linux 5.14
        self.find_strays()
        return super().kill()

    def close(self):
        gone = super().close()
        for directory, _, _ in os.walk(self.path, topdown=False):
            limit = time.monotonic() + 1
            while True:
                try:
                    os.rmdir(directory)
                except OSError:  # the last of its processes is just ending
                    if time.monotonic() < limit:
                        time.sleep(0.005)
                        continue
                break
        return gone


class Tree(Account):
    """The descendants of the command, and the orphans that we adopted."""

    def own_pids(self):
        return self.related()
