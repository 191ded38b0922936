# SPDX-License-Identifier: MIT
"""The servers to measure: threadecho, the peers, the user's own."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib

from .processes import Failure

PEERS_TABLE = os.path.join("bench", "peers", "peers.toml")
NEW_CONNECTIONS = "--no-keepalive"


class Contender:
    """A server, and how it uses its upstream connections."""

    def __init__(self, name, model, template, connection, entry=None,
                 directory=None):
        self.name = name
        self.model = model
        self.template = template
        self.connection = connection  # keep, new, or - (the server's choice)
        self.entry = entry or {}  # its entry in peers.toml
        self.directory = directory  # to run in; None is the root
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
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", probe], cwd=root, timeout=60,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                return None
        except subprocess.TimeoutExpired:
            pass
        packages = self.entry.get("packages", ())
        missing = [name for name in packages if not installed(name)]
        if missing:
            return (f"not installed: {' '.join(missing)} "
                    "(scripts/install-deps peers)")
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


def not_run(root):
    """Return a line for each of the document's names without a contender."""
    return [f"not run: {gone['name']}\t-\t{gone['model']} "
            f"({gone['became']}); see {gone['stands_for']}"
            for gone in load_table(root)["gone"]]


def read_table(root, wanted):
    """Return threadecho and the peers; wanted is keep, new or both."""
    table = load_table(root)
    found = []
    for entry in table["reference"] + table["peer"]:
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


def choose(root, args):
    """Return all contenders to measure, and the user's own among them."""
    known = read_table(root, args.upstream_connections)
    peers = [own_server(text) for text in args.peer]
    chosen = []
    if args.contender:
        for wanted in args.contender:
            chosen += pick(known, wanted)
    else:
        # one without an upstream takes part only on request
        chosen = [contender for contender in known
                  if contender.connection != "-"]
    chosen = chosen + peers
    keys = [contender.key for contender in chosen]
    own = [peer.name for peer in peers]
    for name, connection in keys:
        twice = keys.count((name, connection)) > 1
        if twice or (connection != "-" and name in own):
            raise Failure(f"{name} is given twice: rename one of them with "
                          "ALIAS=NAME")
    return chosen, peers


def split_able(root, chosen):
    """Return those that can run here, and a message for each other one."""
    able = []
    skipped = {}
    for contender in chosen:
        problem = contender.problem(root)
        if problem:
            skipped[contender.name] = problem
        else:
            able.append(contender)
    return able, [f"{name} is skipped: {problem}"
                  for name, problem in skipped.items()]
