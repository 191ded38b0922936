# SPDX-License-Identifier: MIT
"""Describes the machine and the software of a measurement."""

import glob
import hashlib
import os
import platform
import re
import resource
import shutil
import subprocess
import sys

PYTHON = "/usr/bin/python3"

VERSIONS = {
    "cc": ["cc", "--version"],
    "libcurl": ["pkg-config", "--modversion", "libcurl"],
    "libevent": ["pkg-config", "--modversion", "libevent"],
    "libc": ["ldd", "--version"],
    "python3": [PYTHON, "--version"],
    "gevent": [PYTHON, "-c", "import gevent; print(gevent.__version__)"],
    "twisted": [PYTHON, "-c", "import twisted; print(twisted.__version__)"],
    "aiohttp": [PYTHON, "-c", "import aiohttp; print(aiohttp.__version__)"],
    "node": ["node", "--version"],
    "go": ["go", "version"],
    "rustc": ["/usr/bin/rustc", "--version"],
    "tokio": ["dpkg-query", "-W", "-f", "${Version}", "librust-tokio-dev"],
    "hyper": ["dpkg-query", "-W", "-f", "${Version}", "librust-hyper-dev"],
    "erlang": ["dpkg-query", "-W", "-f", "${Version}", "erlang-base"],
    "numpy": [PYTHON, "-c", "import numpy; print(numpy.__version__)"],
    "strace": ["strace", "--version"],
    "perf": ["perf", "--version"],
}

SYSCTLS = (
    "kernel/pid_max", "kernel/threads-max", "vm/max_map_count",
    "net/core/somaxconn", "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/ip_local_port_range", "net/ipv4/tcp_tw_reuse",
    "fs/file-max")


def read(path):
    """Return the text of a file in /proc or /sys, or None."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def first_line(command, root=None):
    """Return the first line that a command prints, or None."""
    if not shutil.which(command[0]):
        return None
    try:
        done = subprocess.run(command, cwd=root, timeout=20, check=False,
                              stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def cpu_model():
    info = read("/proc/cpuinfo") or ""
    found = re.search(r"^model name\s*:\s*(.*)$", info, re.M)
    return found.group(1) if found else platform.machine()


def memory_mib():
    found = re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo") or "")
    return int(found.group(1)) // 1024 if found else None


def split_cores():
    """Return the server's cores and the kit's; None is all.

    With four cores or more, each gets half of them. With fewer, one of them
    would starve. The threads of a physical core stay together.
    """
    cores = os.sched_getaffinity(0)
    if len(cores) < 4:
        return None, None

    def place(core):
        siblings = read(f"/sys/devices/system/cpu/cpu{core}/topology/"
                        "thread_siblings_list") or str(core)
        return int(re.split("[,-]", siblings)[0]), core

    placed = sorted(cores, key=place)
    half = len(placed) // 2
    return set(placed[:half]), set(placed[half:])


def words(cores):
    return "all" if cores is None else sorted(cores)


def own_commit(root):
    """Return the commit of the checkout at root, and whether files differ
    from it; None where root is not itself a checkout."""
    top = first_line(["git", "rev-parse", "--show-toplevel"], root)
    if not top or os.path.realpath(top) != os.path.realpath(root):
        return None, None  # such as an archive within another checkout
    changed = first_line(["git", "status", "--porcelain",
                          "--untracked-files=no"], root)
    return first_line(["git", "rev-parse", "HEAD"], root), bool(changed)


def kit_digest(root):
    """Return a digest of the kit's sources."""
    digest = hashlib.sha256()
    for pattern in ("bench/*.[ch]", "bench/kit/*.py", "scripts/bench"):
        for path in sorted(glob.glob(os.path.join(root, pattern))):
            with open(path, "rb") as file:
                digest.update(file.read() + b"\0")
    return digest.hexdigest()[:16]


def build_facts(root):
    """Return the compiler and the flags of what make has built."""
    flags = (read(os.path.join(root, "build", "flags")) or "").splitlines()
    return {"compiler": first_line(["cc", "--version"]),
            "flags": flags or None}


SAME = (
    ("machine", lambda facts: facts.get("cpu", {}).get("model")),
    ("cores", lambda facts: facts.get("cpu", {}).get("cores")),
    ("memory", lambda facts: facts.get("memory_mib")),
    ("kernel", lambda facts: facts.get("kernel")),
    ("kit", lambda facts: facts.get("kit")),
)


# What else must be the same for a measurement to go on.
SAME_SERVERS = (
    ("commit", lambda facts: facts.get("commit")),
    ("uncommitted changes", lambda facts: facts.get("uncommitted_changes")),
    ("compiler and flags", lambda facts: facts.get("build")),
)


def differences(one, other, facts=SAME):
    """Return the differences between two environments, in words."""
    found = []
    for name, value in facts:
        if value(one) != value(other):
            both = f"{value(one)} and {value(other)}"
            found.append(name if isinstance(value(one) or value(other), dict)
                         else f"{name} {both}")
    return found


def gather(root, cores):
    """Return all facts, for environment.json."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    commit, changed = own_commit(root)
    return {
        "command_line": sys.argv,
        "commit": commit,
        "uncommitted_changes": changed,
        "kit": kit_digest(root),
        "build": build_facts(root),
        "cpu": {
            "model": cpu_model(),
            "cores": os.cpu_count(),
            "cores_of_the_server": words(cores[0]),
            "cores_of_the_kit": words(cores[1]),
            "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/"
                             "scaling_governor"),
            "hypervisor": "hypervisor" in (read("/proc/cpuinfo") or ""),
        },
        "memory_mib": memory_mib(),
        "system": first_line(["sh", "-c",
                              ". /etc/os-release; echo $PRETTY_NAME"]),
        "kernel": platform.release(),
        "kernel_build": platform.version(),
        "clock_source": read("/sys/devices/system/clocksource/clocksource0/"
                             "current_clocksource"),
        "load_average_at_start": " ".join(
            (read("/proc/loadavg") or "").split()[:3]),
        "limits": {
            "open_files_soft": soft,
            "open_files_hard": hard,
            **{name.replace("/", "."): read("/proc/sys/" + name)
               for name in SYSCTLS},
        },
        "versions": {name: first_line(command)
                     for name, command in VERSIONS.items()},
    }
