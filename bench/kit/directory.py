# SPDX-License-Identifier: MIT
"""The directory of a measurement: its tables and facts.

A directory is never overwritten. A measurement that was stopped goes on in the
same one.
"""

import fcntl
import json
import os
import shutil
import time

from . import results, run
from .processes import Failure

DEFAULT = os.path.join("build", "bench-results")
LATEST = "latest"
STOPPED = "the measurement was stopped"


def new_directory(parent, link=True):
    """Make a directory named after the time; return its path.

    With link, `latest` points to it.
    """
    stamp = time.strftime("%Y-%m-%dT%H.%M.%S")
    for number in range(1, 100):
        path = os.path.join(parent, stamp + (f"-{number}" if number > 1
                                             else ""))
        try:
            os.makedirs(path)
        except FileExistsError:
            continue
        if link:
            point_latest(path)
        return path
    raise Failure(f"{parent}: cannot make a directory named {stamp}")


def point_latest(path):
    """Have `latest`, beside the directory, point to it."""
    parent, name = os.path.split(path)
    link = os.path.join(parent, LATEST)
    fresh = f"{link}.{os.getpid()}"
    os.symlink(name, fresh)
    try:
        os.replace(fresh, link)
    except OSError as error:
        os.remove(fresh)
        raise Failure(f"{link}: {error.strerror}") from error


def check_latest(parent):
    """Raise Failure if `latest` is there and no link."""
    link = os.path.join(parent, LATEST)
    if os.path.lexists(link) and not os.path.islink(link):
        raise Failure(f"{link}: is not a link")


def lock(path):
    """Keep a directory to ourselves until we end. Raises Failure if another
    bench writes to it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Failure(f"{path}: another bench writes to it") from error


def check_new(path, option="--output"):
    """Refuse a directory with results, or with files of something else.

    Raises Failure.
    """
    if not os.path.isdir(path) or not os.listdir(path):
        return
    if rows_of(path) or rows_of(path, "tries.tsv"):
        raise Failure(f"{option} {path}: has a measurement already; "
                      f"'scripts/bench --resume {path}' goes on with it")
    if not any(os.path.exists(os.path.join(path, name))
               for name in ("runs.tsv", "tries.tsv", "environment.json",
                            "pool-environment.json", "protocol.log")):
        raise Failure(f"{option} {path}: has files that are not of a "
                      "measurement")


def rows_of(path, name="runs.tsv"):
    """Return the rows of a directory's table, if there is one."""
    table = os.path.join(path, name)
    return results.read_rows(table) if os.path.exists(table) else []


def facts_of(path, name="environment.json"):
    """Return the facts of a directory, or none if the file is not there."""
    if not os.path.exists(os.path.join(path, name)):
        return {}
    return read_facts(path, name)


def read_facts(path, name="environment.json"):
    """Return the facts of a directory. Raises Failure if it has none."""
    name = os.path.join(path, name)
    try:
        with open(name, encoding="utf-8") as file:
            facts = json.load(file)
        if not isinstance(facts, dict):
            raise ValueError("is no JSON object")
        return facts
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise Failure(f"{name}: {error}") from error


def write_facts(path, facts, name="environment.json"):
    """Write the facts of a directory, all of them or nothing."""
    name = os.path.join(path, name)
    with open(name + ".new", "w", encoding="utf-8") as file:
        json.dump(facts, file, indent=2)
        file.write("\n")
    os.replace(name + ".new", name)


class Table:
    """A table such as runs.tsv, to which each run adds a row.

    Raises Failure if there is one already with other columns.
    """

    def __init__(self, path, name="runs.tsv", columns=run.COLUMNS):
        self.name = os.path.join(path, name)
        self.columns = columns
        self.count = 0  # runs in it
        lines = []
        if os.path.exists(self.name):
            with open(self.name, encoding="utf-8") as file:
                lines = file.read().splitlines()
        if lines and lines[0].split("\t") != list(columns):
            raise Failure(f"{self.name}: has the columns of another version")
        # The last row is cut off if the disk was full.
        whole = [line for line in lines[1:]
                 if line.count("\t") == len(columns) - 1]
        self.count = len(whole)
        with open(self.name + ".new", "w", encoding="utf-8") as file:
            for line in ["\t".join(columns), *whole]:
                file.write(line + "\n")
        os.replace(self.name + ".new", self.name)

    def add(self, row):
        with open(self.name, "a", encoding="utf-8") as file:
            file.write("\t".join(format_value(row[name])
                                 for name in self.columns) + "\n")


def format_value(value):
    """Return a value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(value).replace("\t", " ").replace("\n", " ")
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.1f}"
    return str(value)


def made(rows):
    """Return the plans that have a row, by results.PLAN_COLUMNS."""
    return {results.plan_of(row) for row in results.current(rows)
            if STOPPED not in (row["why"] or "")}


def remove_work(path):
    shutil.rmtree(os.path.join(path, "work"), ignore_errors=True)
