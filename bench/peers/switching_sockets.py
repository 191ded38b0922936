# SPDX-License-Identifier: MIT
"""Sockets whose calls read as if they block, for the peers that switch by
hand: where a call would block, it calls the peer's own wait().
"""

import errno
import os
import select
import socket

from line_protocol import BACKLOG

READABLE = select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP
WRITABLE = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
WHAT_IS_NEW = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class SwitchingSocket(socket.socket):
    """It tries first and waits then: epoll reports only what is new."""

    epoll = select.epoll()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.setblocking(False)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.epoll.register(self, WHAT_IS_NEW)

    def wait(self, events):
        """Switch to others until epoll reports one of these events. Raises
        TimeoutError if the caller has waited for too long."""
        raise NotImplementedError

    def recv_into(self, *buffer):  # what makefile() reads with
        while True:
            try:
                return super().recv_into(*buffer)
            except BlockingIOError:
                self.wait(READABLE)

    def sendall(self, data, flags=0):
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.send(rest, flags):]
            except BlockingIOError:
                self.wait(WRITABLE)

    def connect(self, address):
        result = self.connect_ex(address)
        if result == errno.EINPROGRESS:
            self.wait(WRITABLE)
            result = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            raise OSError(result, os.strerror(result))

    def accept(self):
        while True:
            try:
                client, address = super().accept()
                return type(self)(fileno=client.detach()), address
            except BlockingIOError:
                self.wait(READABLE)

    @classmethod
    def dial(cls, address):
        """Return a socket that is connected to (host, port)."""
        host, port = address
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM)[0]
        new = cls(family, kind, protocol)
        try:
            new.connect(target)
        except OSError:
            new.close()
            raise
        return new

    @classmethod
    def listener(cls, address):
        """Return a socket that listens on (host, port)."""
        new = cls(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        new.bind(address)
        new.listen(BACKLOG)
        return new
