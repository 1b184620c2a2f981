"""Supervises one peer process: starts it, sends it commands, receives its events, ends it. `swarm` handles its failures."""

import contextlib
import fcntl
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from signer.documents import Document
from signer.errors import DocumentError
from stager.errors import PeerFailed
from stager.peer.protocol import FrameReader, Heartbeat, PeerEvent, encode_frame, parse_event

PAGE = os.sysconf("SC_PAGE_SIZE")

PIPE = 1 << 20
"""Bytes of the pipes' buffers: piece layers are large, and a small pipe needs a task switch for each 64 KiB."""

SILENCE = 5.0
"""Seconds without an event after which the peer process counts as hung: twenty of its heartbeats."""

QUIT = 2.0
"""Seconds until a process whose end was requested is killed; it has nothing to save."""


class PeerProcess:
    """A running peer process.

    Args:
        on_event: called with each event, from a thread of its own, one at a time.
        clock: seconds; for the time since its last event.
        log: file for the process's standard error; None for that of this process.
    """

    def __init__(
        self,
        on_event: Callable[[PeerEvent], None],
        clock: Callable[[], float] = time.monotonic,
        log: Path | None = None,
    ) -> None:
        self._on_event, self._clock = on_event, clock
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        try:
            with contextlib.ExitStack() as files:
                errors = files.enter_context(log.open("ab")) if log else None
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "stager.peer.process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,  # an interrupt at the terminal is the node's business
                )
        except OSError as exc:
            raise PeerFailed(f"the peer process cannot be started: {exc.strerror}") from exc
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # above the system's limit for users: it works, but slower
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, PIPE)  # type: ignore[arg-type]
        self._beaten = clock()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is running."""
        return self._process.poll() is None

    @property
    def resident(self) -> int:
        """Bytes of resident memory; 0 after it has ended."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            return 0

    def failure_reason(self, memory: int) -> str | None:
        """Say why it must be replaced: it ended, hangs, or uses more than so many bytes of memory; None if it is fine."""
        if not self.alive:
            return "ended"
        if self._clock() - self._beaten > SILENCE:
            return f"has been silent for {SILENCE:.0f} s"
        if self.resident > memory:
            return f"uses more than {memory >> 20} MiB"
        return None

    def send(self, message: Document, attached: bytes = b"") -> None:
        """Queue a command. Never waits; for a process that has ended it does nothing."""
        self._outbox.put(encode_frame(message, attached))

    def stop(self, *, kill: bool = False) -> None:
        """End it by closing its input, or kill it, and wait until it has ended."""
        if kill:
            self._process.kill()
        self._outbox.put(None)
        try:
            self._process.wait(QUIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def _write(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        descriptor = self._process.stdin.fileno()
        with contextlib.suppress(OSError):  # it has ended, which `alive` shows
            while (data := self._outbox.get()) is not None:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        frames = FrameReader()
        with contextlib.suppress(DocumentError, ValueError):  # a malformed event: stop reading, and it counts as hung
            while data := os.read(self._process.stdout.fileno(), 1 << 16):
                for line, _ in frames.feed(data):
                    event = parse_event(line)
                    self._beaten = self._clock()
                    if not isinstance(event, Heartbeat):
                        self._on_event(event)
