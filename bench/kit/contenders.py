# SPDX-License-Identifier: MIT
"""Who is measured: threadecho, the peers of peers.toml, the user's own."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib

from .processes import Failure

TABLE = os.path.join("bench", "peers", "peers.toml")
NEW_CONNECTIONS = "--no-keepalive"


class Contender:
    """A server, and how its upstream connections are used."""

    def __init__(self, name, model, template, connection, packages=()):
        self.name = name
        self.model = model
        self.template = template
        self.connection = connection  # keep, new, or - for the user's own
        self.packages = list(packages)

    @property
    def key(self):
        return self.name, self.connection

    def command(self, port, upstream_port):
        """The words of the command; no shell reads them."""
        upstream = f"http://127.0.0.1:{upstream_port}/arrpi.php"
        return [word.replace("{port}", str(port))
                .replace("{upstream}", upstream)
                for word in shlex.split(self.template)]

    def file_name(self):
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.name)
        return name if self.connection == "-" else f"{name}-{self.connection}"

    def missing(self):
        """The packages that it needs and that are not there."""
        return [name for name in self.packages if not installed(name)]


def installed(package):
    """Whether a Debian package, or any one of A|B, is installed."""
    if not shutil.which("dpkg-query"):
        return True  # no such packages here; the server says what it lacks
    for name in package.split("|"):
        done = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${db:Status-Status}",
             name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, check=False)
        if done.returncode == 0 and done.stdout == "installed":
            return True
    return False


def modes(wanted):
    return ("keep", "new") if wanted == "both" else (wanted,)


def read_table(root, wanted):
    """threadecho and the peers, in the modes that are wanted."""
    found = []
    command = "./threadecho --listen 127.0.0.1:{port} --upstream {upstream}"
    for mode in modes(wanted):
        found.append(Contender(
            "threadecho", "C threads, libcurl",
            command if mode == "keep" else f"{command} {NEW_CONNECTIONS}",
            mode))
    path = os.path.join(root, TABLE)
    if not os.path.exists(path):
        return found
    with open(path, "rb") as file:
        try:
            table = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise Failure(f"{TABLE}: {error}") from error
    for peer in table["peer"]:
        for mode in modes(wanted):
            template = peer["command"]
            if mode == "new":
                template += f" {NEW_CONNECTIONS}"
            found.append(Contender(peer["name"], peer["model"], template,
                                   mode, peer.get("packages", ())))
    return found


def own_server(text):
    """A --peer argument, NAME=COMMAND."""
    name, equals, command = text.partition("=")
    name = name.strip()
    if not equals or not name or "{port}" not in command:
        raise Failure(f"--peer '{text}': not NAME=COMMAND with {{port}} in "
                      "the command")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Failure(f"--peer '{text}': {error}") from error
    if not shutil.which(words[0]):
        raise Failure(f"--peer '{text}': {words[0]}: no such command")
    return Contender(name, "own", command.strip(), "-")


def pick(known, wanted):
    """The contenders of NAME or ALIAS=NAME."""
    alias, equals, name = wanted.partition("=")
    name = name if equals else alias
    picked = [Contender(alias, contender.model, contender.template,
                        contender.connection, contender.packages)
              for contender in known if contender.name == name]
    if not picked:
        names = ", ".join(dict.fromkeys(each.name for each in known))
        raise Failure(f"--contender {wanted}: there are only {names}")
    return picked


def choose(root, args):
    """Who takes part, what is skipped and why, and the user's servers."""
    known = read_table(root, args.upstream_connections)
    peers = [own_server(text) for text in args.peer]
    chosen = []
    if args.contender:
        for wanted in args.contender:
            chosen += pick(known, wanted)
    else:
        chosen = known
    chosen = chosen + peers
    keys = [contender.key for contender in chosen]
    for key in keys:
        if keys.count(key) > 1:
            raise Failure(f"{key[0]} is there twice: ALIAS=NAME gives one "
                          "another name")
    skipped = []
    for contender in chosen:
        missing = contender.missing()
        text = (f"{contender.name} is skipped: not installed: "
                f"{' '.join(missing)} (scripts/install-deps peers)")
        if missing and text not in skipped:
            skipped.append(text)
    return ([contender for contender in chosen if not contender.missing()],
            skipped, peers)
