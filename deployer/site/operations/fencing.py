"""Fencing: which lost nodes certainly run no machines of the site, so that other machines may replace theirs.

There are two ways, of which a site's settings choose one. **Leases**: a node without contact to its site stops its machines
by itself after the time that it has announced (`deployer.node.agent.lease`); the site waits for that time and a margin, counted
from the last report by a monotonic clock. **A command**: a program of the operator's cuts the node off, its power for
instance, and reports that by exit status 0.

This state is not stored. A restarted service counts again, or runs the command again: later than needed, never earlier.
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
from typing import Final

from deployer.errors import FencingFailed
from deployer.protocol.desired_state import LeaseTerms
from deployer.site.model.records import NodeState, SiteNode
from deployer.site.settings import SiteSettings
from signer.errors import PartitaError
from signer.runtime.units import duration_text, parse_duration

FENCING_RETRY: Final = 30.0
"""Seconds until a failed command is retried."""

AT_ONCE: Final = 8
"""Commands that run side by side: a hall that lost its network has many nodes, a management network little patience."""

MAX_COMMAND_OUTPUT: Final = 300
"""Characters of a command's output in its error."""

AGENT_KINDS: Final = frozenset({"libvirt"})
"""Kinds of nodes with an agent: accounts at EC2 have neither leases nor a power supply to cut."""

FencingReporter = Callable[[str, str, str], None]
"""Reports an event of a node: its UUID, the event, and the reason."""

FencingMethod = Callable[[Sequence[SiteNode]], frozenset[str]]
"""A way of fencing: of all present nodes in their current state, the UUIDs of the lost ones that certainly run nothing."""

log = logging.getLogger("partita.site")


class LeaseFencing:
    """Waits until the leases of lost nodes have run out.

    Args:
        margin: seconds beyond the lease that a node needs to stop its machines.
        clock: monotonic, in seconds.
        report: see `FencingReporter`.
    """

    def __init__(self, margin: float, clock: Callable[[], float], report: FencingReporter) -> None:
        self._margin, self._clock, self._report = margin, clock, report
        self._heard: dict[str, tuple[datetime | None, float]] = {}
        self._reported: dict[str, datetime | None] = {}

    def __call__(self, nodes: Sequence[SiteNode], /) -> frozenset[str]:
        """See `FencingMethod`."""
        now = self._clock()
        before, self._heard = self._heard, {}
        found = set[str]()
        for node in nodes:
            known = before.get(node.uuid)
            since = known[1] if known is not None and known[0] == node.reported else now
            self._heard[node.uuid] = node.reported, since
            if node.state is not NodeState.LOST:
                continue
            if node.lease is None or node.kind not in AGENT_KINDS:
                self._report_once(
                    node, "unfenced", "it never promised to stop its machines; remove it once they surely do not run"
                )
            elif now - since > node.lease + self._margin:
                found.add(node.uuid)
                reason = f"it has stopped its machines: it has not been heard for {duration_text(int(now - since))}"
                self._report_once(node, "fenced", reason)
        self._reported = {uuid: at for uuid, at in self._reported.items() if uuid in self._heard}
        return frozenset(found)

    def _report_once(self, node: SiteNode, what: str, why: str) -> None:
        """Report once for each time that a node is lost."""
        if node.uuid not in self._reported or self._reported[node.uuid] != node.reported:
            self._reported[node.uuid] = node.reported
            self._report(node.uuid, what, why)


@dataclass
class _Try:
    """The state of the command for a lost node that last reported at `reported`."""

    reported: datetime | None
    again: float = 0.0
    done: bool = False
    running: bool = False
    why: str = ""


class CommandFencing:
    """Runs a program for each node that is lost, until it ends with 0.

    Args:
        run: runs it for a node; raises FencingFailed.
        clock: monotonic, in seconds.
        report: see `FencingReporter`.
    """

    def __init__(self, run: Callable[[SiteNode], None], clock: Callable[[], float], report: FencingReporter) -> None:
        self._run, self._clock, self._report = run, clock, report
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
            log.exception("fencing node %s failed", node.name)
            what, why = "unfenced", f"the site failed ({type(exc).__name__}); its log has the reason"
        try:
            if why != known.why:
                self._report(node.uuid, what, why)
        except PartitaError as exc:
            log.warning("node %s is %s (%s), and its event cannot be stored: %s", node.name, what, why, exc)
        with self._lock:
            known.running, known.done, known.why = False, what == "fenced", why
            known.again = self._clock() + FENCING_RETRY


def fencing_command(arguments: Sequence[str], timeout: float) -> Callable[[SiteNode], None]:
    """A function that runs a site's command for a node: `arguments`, then the node's name, UUID, and labels as name=value.

    Args:
        arguments: the program and its first arguments.
        timeout: seconds that it may take.
    """

    def run(node: SiteNode) -> None:
        labels = (f"{name}={value}" for name, value in sorted(node.labels.items()))
        words = [*arguments, node.name, node.uuid, *labels]
        with tempfile.TemporaryFile() as output:  # a file, since processes that it leaves running may keep a pipe open
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
                raise FencingFailed(f"the command {arguments[0]} did not end within {within} and was killed") from exc
            if code:
                output.seek(max(0, output.tell() - MAX_COMMAND_OUTPUT))
                text = " ".join(output.read(MAX_COMMAND_OUTPUT).decode("utf-8", "replace").split())
                shown = "".join(char if char.isprintable() else "?" for char in text)
                raise FencingFailed(f"the command {arguments[0]} ended with {code}{f': {shown}' if shown else ''}")

    return run


ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C",
}
"""The environment of the command: without the service's own, which may hold secrets."""


def fence_none(_nodes: Sequence[SiteNode]) -> frozenset[str]:
    """No fencing, for sites that wait for lost machines."""
    return frozenset()


@dataclass(frozen=True)
class SiteFencing:
    """A site's way of fencing.

    Attributes:
        lease: the lease terms in the answer to each report of a node; None without leases.
        look: see `FencingMethod`.
    """

    lease: LeaseTerms | None = None
    look: FencingMethod = fence_none


def make_fencing(
    settings: SiteSettings, report: FencingReporter, clock: Callable[[], float] = time.monotonic
) -> SiteFencing:
    """Fencing by a site's settings: none if the site waits for lost machines, else by a command or leases."""
    if settings.lost_machines == "wait":
        return SiteFencing()
    if settings.fence_command:
        command = fencing_command(settings.fence_command, parse_duration(settings.fence_timeout))
        return SiteFencing(None, CommandFencing(command, clock, report))
    lease = LeaseTerms(seconds=parse_duration(settings.fence_after), then=settings.fence_then)
    return SiteFencing(lease, LeaseFencing(parse_duration(settings.fence_margin), clock, report))
