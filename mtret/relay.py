"""A connection that does not break on this side when it breaks on the other.

JAX ends a process on the spot, with a page of C++ stack, when its connection to the coordination service closes.
Through a relay it keeps waiting instead, and the relay says that the connection broke.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Relay:
    """Listens on a port of this machine and passes everything on to `host:port`, both ways.

    `on_broken` is called from a thread when the other side closes a connection first; until it is set, nobody minds.
    """

    def __init__(self, host: str, port: int):
        self._there = host, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.on_broken: Callable[[], None] | None = None
        self._kept: list[socket.socket] = []  # held, so that they stay open
        threading.Thread(target=self._accept, name="mtret_relay", daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            try:
                far = socket.create_connection(self._there, timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            closed = threading.Event()  # by our side
            threading.Thread(target=self._out, args=(near, far, closed), daemon=True).start()
            threading.Thread(target=self._back, args=(far, near, closed), daemon=True).start()

    def _out(self, near: socket.socket, far: socket.socket, closed: threading.Event) -> None:
        while data := _received(near):
            if not _sent(far, data):
                return  # the other side is gone, which the way back notices
        closed.set()
        with suppress(OSError):
            far.shutdown(socket.SHUT_RDWR)

    def _back(self, far: socket.socket, near: socket.socket, closed: threading.Event) -> None:
        while data := _received(far):
            if not _sent(near, data):
                closed.set()
                break
        far.close()
        if closed.is_set() or self.on_broken is None:
            near.close()
            return
        self._kept.append(near)
        self.on_broken()


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


def _sent(target: socket.socket, data: bytes) -> bool:
    try:
        target.sendall(data)
    except OSError:
        return False
    return True
