"""A link between a node and its site that can be cut: connections through it are refused, or fall silent."""

import contextlib
import selectors
import socket
import threading
from pathlib import Path
from typing import Literal, Self


class Link:
    """Listens on loopback and passes on to a port there, for as long as it is whole."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.cut: Literal["", "refuse", "silence"] = ""
        self.used = False
        self._pairs: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._drop()

    def join(self, directory: Path) -> None:
        """Have a node whose files lie there (DIR/site) reach its site through this link."""
        (directory / "url").write_text(f"https://127.0.0.1:{self.port}\n")

    def break_off(self, how: Literal["refuse", "silence"]) -> None:
        """Cut it: what is under way is broken off, or hears nothing more."""
        self.cut = how
        if how == "refuse":
            self._drop()

    def mend(self) -> None:
        """Whole again; connections that were silent are lost."""
        self._drop()
        self.cut = ""

    def _drop(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for one in pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self.used = True
            if self.cut == "refuse":
                near.close()
                continue
            threading.Thread(target=self._pass, args=(near,), daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(self._to) as far:
            with self._lock:
                self._pairs |= {near, far}
            with selectors.DefaultSelector() as both:
                both.register(near, selectors.EVENT_READ, far)
                both.register(far, selectors.EVENT_READ, near)
                while True:
                    for key, _ in both.select():
                        data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                        if not data:
                            return
                        if not self.cut:
                            key.data.sendall(data)
