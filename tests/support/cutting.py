"""A network that breaks at a COMMIT: bytes pass between a client and a server until it is time."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

# How the client's COMMIT looks on the wire, and the end of the server's answer to it.
_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
_READY = b"Z\x00\x00\x00\x05I"

How = Literal["before", "after", "held"]


class Cutter:
    """Breaks the connection at the n-th COMMIT that it sees, and lets everything pass from then on.

    Args:
        dsn: of the server, by TCP.
        how: `before`: COMMIT never arrives; `after`: it is done, and nobody hears of it; `held`: it never arrives,
            and the server is not told that its client is gone.
    """

    def __init__(self, dsn: str, how: How, nth: int) -> None:
        parts = conninfo_to_dict(dsn)
        self._server = (str(parts["host"]), int(str(parts["port"])))
        self._how, self._left = how, nth
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=self._listener.getsockname()[1], sslmode="disable")
        self.was_cut = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._to_client, args=(client, server), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                # psycopg waits for each answer, so a message of its own is what was sent last.
                if data.endswith(_COMMIT) and not self.was_cut:
                    self._left -= 1
                    if self._left == 0:
                        self._cut(data, client, server)
                        return
                server.sendall(data)
        _close(server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if self.was_cut and self._how == "after" and data.endswith(_READY) and client in self._cut_off:
                    break
                client.sendall(data)
        _close(client)

    _cut_off: tuple[socket.socket, ...] = ()

    def _cut(self, data: bytes, client: socket.socket, server: socket.socket) -> None:
        self._cut_off, self.was_cut = (client,), True
        if self._how == "after":
            # The answer is kept from the client by whoever would pass it on.
            server.sendall(data)
            return
        _close(client)
        if self._how == "before":
            _close(server)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
