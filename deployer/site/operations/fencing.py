"""Which lost nodes surely run nothing of the site's any more, so that others may take their machines' place.

Two ways, of which a site's settings choose one. **Leases**: a node that hears nothing of its site stops its machines by
itself after the time that it has said (`deployer.node.agent.lease`); the site waits for that time and a margin, counted from the
last report by a clock that only grows. **A command**: a program of the operator's cuts the node off, its power for
instance, and says so by ending with 0.

What is known here is not written down. A service that starts again counts again, or runs the command again: later than
needed, never earlier.
"""

import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from deployer.errors import FencingFailed
from deployer.protocol.desired_state import LeaseTerms
from deployer.site.model.records import NodeState, SiteNode
from signer.errors import PartitaError
from signer.runtime.units import duration_text

FENCING_RETRY: Final = 30.0
"""Seconds until a command that failed is run again."""

AT_ONCE: Final = 8
"""Commands that run side by side: a hall that lost its network has many nodes, a management network little patience."""

MAX_COMMAND_OUTPUT: Final = 300
"""Characters of what a command said that are told."""

AGENT_KINDS: Final = frozenset({"libvirt"})
"""Kinds of nodes that have an agent of their own: what runs at EC2 knows nothing of leases and has no plug to pull."""

FencingReporter = Callable[[str, str, str], None]
"""Tells of a node (UUID): what, and why."""

log = logging.getLogger("partita.site")


class FencingMethod(Protocol):
    """A way to be sure."""

    def __call__(self, nodes: Sequence[SiteNode], /) -> frozenset[str]:
        """Of all nodes that have not left, as they are now: the UUIDs of those that surely run nothing, should they be lost."""


class LeaseFencing:
    """Waits until what nodes promised has come true.

    Args:
        margin: seconds beyond that, for what a node needs to stop its machines.
        clock: seconds that only grow.
        tell: see `FencingReporter`.
    """

    def __init__(self, margin: float, clock: Callable[[], float], tell: FencingReporter) -> None:
        self._margin, self._clock, self._tell = margin, clock, tell
        self._heard: dict[str, tuple[datetime | None, float]] = {}
        self._told: dict[str, datetime | None] = {}

    def __call__(self, nodes: Sequence[SiteNode], /) -> frozenset[str]:
        """See `FencingMethod`."""
        now = self._clock()
        heard, self._heard = self._heard, {}
        found = set[str]()
        for node in nodes:
            known = heard.get(node.uuid)
            since = known[1] if known is not None and known[0] == node.reported else now
            self._heard[node.uuid] = node.reported, since
            if node.state is not NodeState.LOST:
                continue
            if node.lease is None or node.kind not in AGENT_KINDS:
                self._say(
                    node, "unfenced", "it never promised to stop its machines; remove it once they surely do not run"
                )
            elif now - since > node.lease + self._margin:
                found.add(node.uuid)
                told = f"it has stopped its machines: it has not been heard for {duration_text(int(now - since))}"
                self._say(node, "fenced", told)
        self._told = {uuid: at for uuid, at in self._told.items() if uuid in self._heard}
        return frozenset(found)

    def _say(self, node: SiteNode, what: str, why: str) -> None:
        """Once for each time that it is lost."""
        if node.uuid not in self._told or self._told[node.uuid] != node.reported:
            self._told[node.uuid] = node.reported
            self._tell(node.uuid, what, why)


@dataclass
class _Try:
    """The command for a node that was lost, having reported then: what is known of it."""

    reported: datetime | None
    again: float = 0.0
    done: bool = False
    running: bool = False
    why: str = ""


class CommandFencing:
    """Runs a program for each node that is lost, until it ends with 0.

    Args:
        run: runs it for a node; raises FencingFailed.
        clock: seconds that only grow.
        tell: see `FencingReporter`.
    """

    def __init__(self, run: Callable[[SiteNode], None], clock: Callable[[], float], tell: FencingReporter) -> None:
        self._run, self._clock, self._tell = run, clock, tell
        self._tries: dict[str, _Try] = {}
        self._lock = threading.Lock()
        self._hands = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fencing")

    def __call__(self, nodes: Sequence[SiteNode], /) -> frozenset[str]:
        """See `FencingMethod`."""
        lost = {node.uuid: node for node in nodes if node.state is NodeState.LOST and node.kind in AGENT_KINDS}
        with self._lock:
            self._tries = {
                uuid: known
                for uuid, known in self._tries.items()
                if uuid in lost and known.reported == lost[uuid].reported
            }
            for node in lost.values():
                known = self._tries.setdefault(node.uuid, _Try(node.reported))
                if not (known.done or known.running) and self._clock() >= known.again:
                    known.running = True
                    self._hands.submit(self._work, node, known)
            return frozenset(uuid for uuid, known in self._tries.items() if known.done)

    def _work(self, node: SiteNode, known: _Try) -> None:
        what, why = "fenced", "the site's command has made sure that it runs nothing"
        try:
            self._run(node)
        except FencingFailed as exc:
            what, why = "unfenced", str(exc)
        except Exception as exc:
            log.exception("node %s", node.name)
            what, why = "unfenced", f"the site failed ({type(exc).__name__}); its log has the reason"
        try:
            if why != known.why:
                self._tell(node.uuid, what, why)
        except PartitaError as exc:
            log.warning("node %s: %s: %s (%s)", node.name, what, why, exc)
        with self._lock:
            known.running, known.done, known.why = False, what == "fenced", why
            known.again = self._clock() + FENCING_RETRY


def fencing_command(arguments: Sequence[str], timeout: float) -> Callable[[SiteNode], None]:
    """What runs a site's command for a node: its arguments, then the node's name, UUID, and labels as name=value.

    Args:
        arguments: the program and what comes first.
        timeout: seconds that it may take.
    """

    def run(node: SiteNode) -> None:
        labels = (f"{name}={value}" for name, value in sorted(node.labels.items()))
        words = [*arguments, node.name, node.uuid, *labels]
        with tempfile.TemporaryFile() as output:  # a file, since what it leaves running may keep a pipe open
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=ENVIRONMENT,
                    start_new_session=True,
                )
            except OSError as exc:
                raise FencingFailed(f"the command {arguments[0]} cannot be run: {exc.strerror}") from exc
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired as exc:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                within = duration_text(int(timeout))
                raise FencingFailed(f"the command {arguments[0]} did not end within {within}, and was ended") from exc
            if code:
                output.seek(max(0, output.tell() - MAX_COMMAND_OUTPUT))
                said = " ".join(output.read(MAX_COMMAND_OUTPUT).decode("utf-8", "replace").split())
                shown = "".join(char if char.isprintable() else "?" for char in said)
                raise FencingFailed(f"the command {arguments[0]} ended with {code}{f': {shown}' if shown else ''}")

    return run


ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C",
}
"""Of the command: nothing that the service was started with, its secrets least of all."""


def fence_none(_nodes: Sequence[SiteNode]) -> frozenset[str]:
    """Where lost machines are waited for, nothing has to be sure."""
    return frozenset()


@dataclass(frozen=True)
class SiteFencing:
    """A site's way to be sure, and what it tells its nodes of that.

    Attributes:
        lease: for each node, with the answer to each report; None where it needs none.
        look: see `FencingMethod`.
    """

    lease: LeaseTerms | None = None
    look: FencingMethod = fence_none


def make_fencing(
    lost_machines: str,
    lease: LeaseTerms,
    margin: float,
    command: Sequence[str],
    timeout: float,
    tell: FencingReporter,
    clock: Callable[[], float] = time.monotonic,
) -> SiteFencing:
    """What a site's settings ask for: nothing where lost machines are waited for, else a command or leases."""
    if lost_machines == "wait":
        return SiteFencing()
    if command:
        return SiteFencing(None, CommandFencing(fencing_command(command, timeout), clock, tell))
    return SiteFencing(lease, LeaseFencing(margin, clock, tell))
