# SPDX-License-Identifier: MIT
"""The servers to measure: threadecho, the peers, the user's own."""

import concurrent.futures
import os
import re
import shlex
import shutil
import subprocess
import tomllib

from .console import wrap
from .groups import CHOICES, GROUPS, OWN
from .processes import Failure

PEERS_TABLE = os.path.join("bench", "peers", "peers.toml")
NEW_CONNECTIONS = "--no-keepalive"
BASELINE = "threadecho"
PROBES = 4  # at a time: an interpreter mostly waits for the disk

# What waits and what fetches: the rows and columns of the matrix.
WAITS = ("threads", "processes", "events", "coroutines", "io_uring")
FETCHES = ("libcurl", "sockets")


class Contender:
    """A server, and how it uses its upstream connections."""

    # What differs for a server that is not ours to start: see remote.py.
    elsewhere = False
    host = "127.0.0.1"
    listen: str | None = None
    shared_key = b""
    loaded = False

    def __init__(self, name, model, template, connection, entry=None,
                 directory=None):
        self.name = name
        self.model = model
        self.template = template
        self.connection = connection  # keep, new, or - (the server's choice)
        self.entry = entry or {}  # its entry in peers.toml
        self.directory = directory  # to run in; None is the root
        self.group = self.entry.get("group", OWN)
        self.fetches = "{upstream}" in template

    @property
    def key(self):
        return self.name, self.connection

    def command(self, port, upstream_port):
        """Return the words of the command; no shell reads them."""
        upstream = f"http://127.0.0.1:{upstream_port}/arrpi.php"
        return [word.replace("{port}", str(port))
                .replace("{upstream}", upstream)
                for word in shlex.split(self.template)]

    def file_name(self):
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.name)
        return name if self.connection == "-" else f"{name}-{self.connection}"

    def problem(self, root):
        """Return why it cannot run here, or None."""
        probe = self.entry.get("probe")
        if not probe:
            return None
        said = ""
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", probe], cwd=root, timeout=60,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors="replace",
                check=False)
            if done.returncode == 0:
                return None
            said = done.stderr.strip().rpartition("\n")[2]
        except subprocess.TimeoutExpired:
            pass
        packages = self.entry.get("packages", ())
        missing = [name for name in packages if not installed(name)]
        if missing:
            return (f"not installed: {' '.join(missing)} "
                    "(scripts/install-deps peers)")
        if said:
            return f"'{probe}' fails: {said}"
        return f"'{probe}' fails; it needs {' '.join(packages) or 'make'}"


def installed(package):
    """Return whether a Debian package is installed."""
    if not shutil.which("dpkg-query"):
        return False
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        check=False)
    return done.returncode == 0 and done.stdout == "installed"


def load_table(root):
    """Return what is in peers.toml."""
    with open(os.path.join(root, PEERS_TABLE), "rb") as file:
        try:
            return tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise Failure(f"{PEERS_TABLE}: {error}") from error


def check_entry(entry, cells):
    """Refuse a group that is unknown or missing, and a wrong place in the
    matrix; cells are those taken, by what waits and fetches."""
    where = f"{PEERS_TABLE}: {entry['name']}"
    if entry.get("group") not in CHOICES:
        found = f"'{entry['group']}'" if "group" in entry else "missing"
        raise Failure(f"{where}: group is {found}, not one of "
                      f"{', '.join(CHOICES)}")
    keys = {"waits": WAITS, "fetches": FETCHES}
    given = [key for key in keys if key in entry]
    for key in given:
        if entry[key] not in keys[key]:
            raise Failure(f"{where}: {key} is '{entry[key]}', not one of "
                          f"{', '.join(keys[key])}")
    if len(given) == 1:
        raise Failure(f"{where}: has {given[0]}; waits and fetches go "
                      "together")
    if given:
        cell = entry["waits"], entry["fetches"]
        if cell in cells:
            raise Failure(f"{where}: waits and fetches are those of "
                          f"{cells[cell]}")
        cells[cell] = entry["name"]


def read_table(root, wanted):
    """Return threadecho and the peers; wanted is keep, new or both."""
    table = load_table(root)
    found = []
    cells: dict[tuple, str] = {}
    for entry in table["reference"] + table["peer"]:
        check_entry(entry, cells)
        name, model = entry["name"], entry["model"]
        command = entry["command"]
        if "{upstream}" not in command:
            found.append(Contender(name, model, command, "-", entry))
            continue
        if wanted in ("keep", "both"):
            found.append(Contender(name, model, command, "keep", entry))
        if wanted in ("new", "both"):
            found.append(Contender(name, model,
                                   f"{command} {NEW_CONNECTIONS}", "new",
                                   entry))
    return found


def check_name(name, argument):
    """Reject a name that does not fit into a table or a file name."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._ -]*", name):
        raise Failure(f"{argument}: '{name}' is not a valid name: a letter, "
                      "then letters, digits, spaces and . _ -")


def own_server(text):
    """Return the contender that --peer NAME=COMMAND describes."""
    name, equals, command = text.partition("=")
    name = name.strip()
    if not equals or "{port}" not in command:
        raise Failure(f"--peer '{text}': not NAME=COMMAND with {{port}} in "
                      "the command")
    check_name(name, f"--peer '{text}'")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Failure(f"--peer '{text}': {error}") from error
    if not shutil.which(words[0]):
        raise Failure(f"--peer '{text}': {words[0]}: no such command")
    return Contender(name, "own", command.strip(), "-",
                     directory=os.getcwd())


def pick(known, wanted):
    """Return the contenders that --contender [ALIAS=]NAME selects."""
    alias, equals, name = wanted.partition("=")
    name = name if equals else alias
    check_name(alias, f"--contender {wanted}")
    picked = [Contender(alias, contender.model, contender.template,
                        contender.connection, contender.entry)
              for contender in known if contender.name == name]
    if not picked:
        names = ", ".join(dict.fromkeys(each.name for each in known))
        raise Failure(f"--contender {wanted}: not one of {names}")
    return picked


def by_option(known, args):
    """Return the contenders that --group, --matrix and --quick select, or
    all of them. One without an upstream takes part only by its name."""
    known = [contender for contender in known if contender.connection != "-"]
    if args.group or args.matrix:
        return [contender for contender in known
                if contender.group in args.group
                or (args.matrix and "waits" in contender.entry)]
    if args.contender:
        return []
    return [contender for contender in known
            if not args.quick or contender.entry.get("quick")]


def choose(root, args, servers=()):
    """Return all contenders to measure, and the user's own among them.

    Servers that run elsewhere are measured alone, unless others are named.
    """
    known = read_table(root, args.upstream_connections)
    peers = [own_server(text) for text in args.peer]
    named = [contender for wanted in args.contender
             for contender in pick(known, wanted)]
    names = {contender.name for contender in named}
    chosen = [contender for contender in by_option(known, args)
              if contender.name not in names
              and not (servers and not (args.group or args.matrix))]
    peers = peers + list(servers)
    names |= {contender.name for contender in chosen + peers}
    base = args.baseline or BASELINE
    if chosen and base not in names:
        chosen = [contender for contender in known
                  if contender.name == base] + chosen
    chosen = chosen + named + peers
    keys = [contender.key for contender in chosen]
    own = [peer.name for peer in peers]
    for name, connection in keys:
        twice = keys.count((name, connection)) > 1
        if twice or (connection != "-" and name in own):
            raise Failure(f"{name} is given twice: rename one of them with "
                          "ALIAS=NAME")
    return chosen, peers[:len(peers) - len(servers)]


def problems(root, chosen):
    """Return why a contender can't run here, or None, by its name."""
    by_name = {contender.name: contender for contender in chosen}
    with concurrent.futures.ThreadPoolExecutor(PROBES) as executor:
        found = executor.map(lambda contender: contender.problem(root),
                             by_name.values())
        return dict(zip(by_name, found))


def split_able(root, chosen):
    """Return those that can run here, and a message for each other one."""
    skipped = problems(root, chosen)
    return ([contender for contender in chosen
             if not skipped[contender.name]],
            [f"{name} is skipped: {problem}"
             for name, problem in skipped.items() if problem])


def described(chosen):
    """Return what environment.json says of each contender."""
    found = []
    for contender in chosen:
        if contender.elsewhere:
            found.append(contender.described())
            continue
        entry = contender.entry
        facts = {"name": contender.name, "model": contender.model,
                 "group": contender.group,
                 "upstream_connection": contender.connection,
                 "command": contender.template}
        if contender.name == entry.get("name"):  # an alias has no place
            facts.update({key: entry[key] for key in ("waits", "fetches")
                          if key in entry})
        found.append(facts)
    return found


def listing(root, chosen):
    """Return what there is to measure, and what can run here, as lines."""
    why = problems(root, chosen)
    by_group: dict[str, dict] = {group: {} for group in GROUPS}
    for contender in chosen:
        by_group[contender.group].setdefault(contender.name, []).append(
            contender)
    lines = []
    wide = max(len(name) for name in why) + 2
    modes = max(len(mode_names(each)) for group in by_group.values()
                for each in group.values()) + 2
    for group, names in by_group.items():
        if not names:
            continue
        lines += ["", f"{group}: {GROUPS[group]}"]
        for name, each in names.items():
            lines += wrap(f"  {name:<{wide}}{mode_names(each):<{modes}}"
                          f"{each[0].model}", wide + modes + 2)
            if why[name]:
                lines += wrap(" " * (wide + 2) + f"NOT HERE: {why[name]}",
                              wide + 4)
    return lines[1:]


def mode_names(contenders):
    """Return how they use their upstream connections, as one word."""
    return ",".join(contender.connection for contender in contenders)


def gone_listing(root):
    """Return the document's names that have no contender, and which one has
    the model of each, as lines."""
    lines = ["", "gone: names of the document that Debian has for no Python"]
    for entry in load_table(root)["gone"]:
        lines += wrap(f"  {entry['name']}: {entry['model']} "
                      f"({entry['became']}); see {entry['stands_for']}", 6)
    return lines
