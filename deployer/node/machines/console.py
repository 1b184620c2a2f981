"""A guest's serial console as its node keeps it: read from the file, told to the site that asks for it, made safe for people.

The site asks by its answer to the agent's long poll, and the agent answers with a request of its own. Nothing is sent that
was not asked for, and nothing is kept beside the file.
"""

import base64
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.membership.site_client import NodeSiteClient
from deployer.protocol.console import WRITING_STATES
from deployer.protocol.desired_state import ConsoleRequest, ConsoleResponse
from signer.errors import PartitaError

LOOK_EVERY = 0.2
"""Seconds between two checks of consoles that are waited for."""

MAX_WAITING = 64
"""Questions that wait at a time; what comes beyond is answered with what there is."""


log = logging.getLogger("partita.node")


def read_console_from(file: Path, offset: int, most: int) -> tuple[int, bytes]:
    """Where the bytes begin, and at most so many of them; what was given up at the beginning is left out."""
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if offset >= size:
                return offset, b""
            try:
                start = os.lseek(opened.fileno(), offset, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end
                return size, b""
            opened.seek(start)
            return start, opened.read(most)
    except FileNotFoundError:
        return offset, b""


def read_console_end(file: Path, most: int) -> tuple[int, bytes]:
    """The last bytes of a console, at most so many, and where they begin."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        return 0, b""
    return read_console_from(file, max(0, size - most), most)


class ConsoleReader:
    """Answers one site's questions, from a thread of its own that lives as long as there are any.

    Args:
        site: gets the answers.
        identity: of the site; it reads consoles of its own machines only.
        keeper: of the node's machines.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        site: NodeSiteClient,
        identity: str,
        keeper: MachineSupervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site, self._identity, self._keeper, self._clock = site, identity, keeper, clock
        self._waiting: list[tuple[ConsoleRequest, float]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def asked(self, questions: Iterable[ConsoleRequest]) -> None:
        """Answer these, each as soon as there is something to tell, or its time is over. Returns at once."""
        now = self._clock()
        with self._lock:
            for one in questions:
                late = len(self._waiting) >= MAX_WAITING
                self._waiting.append((one, now if late else now + one.wait))
            if self._waiting and self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._work, name="agent-serial", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Answer nothing more."""
        self._ended.set()

    def _work(self) -> None:
        while True:
            with self._lock:
                waiting = list(self._waiting)
                if not waiting or self._ended.is_set():
                    self._waiting, self._thread = [], None
                    return
            for one in waiting:
                answer = self._answer(*one)
                if answer is not None:
                    self._tell(answer)
                    with self._lock:
                        self._waiting.remove(one)
            self._ended.wait(LOOK_EVERY)

    def _answer(self, ask: ConsoleRequest, until: float) -> ConsoleResponse | None:
        """What there is to tell; None while there may be something soon."""
        try:
            record = self._keeper.store.get(ask.machine)
            if record.site != self._identity:
                return ConsoleResponse(id=ask.id)
            file = self._keeper.store.console(ask.machine)
            state = record.state  # read before the file: after its end a machine writes nothing
            if ask.after is None:
                start, data = read_console_end(file, ask.most)
            else:
                start, data = read_console_from(file, ask.after, ask.most)
        except (PartitaError, OSError) as exc:
            log.info("the console of machine %s cannot be read: %s", ask.machine, exc)
            return ConsoleResponse(id=ask.id)
        if not data and ask.after is not None and state in WRITING_STATES and self._clock() < until:
            return None
        return ConsoleResponse(id=ask.id, state=state, start=start, data=base64.b64encode(data).decode("ascii"))

    def _tell(self, answer: ConsoleResponse) -> None:
        try:
            self._site.serial(answer)
        except PartitaError as exc:  # the requester gets no answer, and may ask again
            log.info("a console did not get through: %s", exc)
