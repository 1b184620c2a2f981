"""A client of a node's service for commands: the node's values and errors, over its Unix socket. The only door to httpx2."""

import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

from catalog.schema.problems import from_problem, is_unknown_route, read_problem
from deployer.errors import BackendFailed, MachineConflict, NodeUnavailable
from deployer.machine.state import MachineState
from deployer.node.schema.machines import ExtendRequest, OperationName, ResizeRequest, SavedImage, SaveOrder
from deployer.node.schema.orders import (
    MAX_STEP,
    MAX_WAIT,
    NODE_API_VERSION,
    DeploymentResult,
    DeploymentStep,
    ExposureList,
    MachineList,
    NodeStatus,
)
from deployer.node.schema.staging import PrefetchOrder, PrefetchResult, PrefetchStep, StagingStatus, UnpinResult
from deployer.protocol.console import OFFSET_HEADER, STATE_HEADER
from deployer.protocol.machine_order import MachineOrder
from deployer.records.machine_store import MachineRecord
from signer.documents import Document, canonical, parse, read_json
from signer.runtime.closing import Closable
from signer.runtime.tls import trust_for

TIMEOUT = httpx2.Timeout(90.0, connect=5.0)
"""Seconds of silence. Staging tells of itself all the time; the longest silence is the start of a machine."""

LONG = httpx2.Timeout(4 * 3600.0, connect=5.0)
"""Seconds for what takes as long as memory or disks are large. A node that dies meanwhile closes the connection."""

ASK_AGAIN = 5.0
"""Seconds after which a guest that was asked to power off, and runs still, is asked again."""

D = TypeVar("D", bound=Document)
S = TypeVar("S", DeploymentStep, PrefetchStep)


class NodeClient(Closable):
    """A connection to a node's service, closed by `close` or as a context manager."""

    def __init__(self, place: Path) -> None:
        """Connect lazily to the socket at that place."""
        self.socket = place
        self._reached = False
        self._http = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(place), verify=trust_for("")),
            base_url="http://node",
            timeout=TIMEOUT,
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def status(self) -> NodeStatus:
        """The node's status; NodeUnavailable if it does not answer."""
        return self._get(NodeStatus, "GET", "status")

    def decide(self, order: MachineOrder) -> dict[str, Any]:
        """Evaluate the policy for an order: a Decision as JSON."""
        found: dict[str, Any] = read_json(self._ask("POST", "decisions", content=canonical(order)), "decision")
        return found

    def deploy(self, order: MachineOrder, watch: Callable[[DeploymentStep], None]) -> DeploymentResult:
        """Carry out an order; `watch` sees each step. Leaving this call early cancels the deployment.

        Raises:
            The very error that the node ended with, such as Refused.
        """
        with closing(self._steps(DeploymentStep, "deployments", order)) as steps:
            for step in steps:
                watch(step)
                if step.result is not None:
                    return step.result
        raise NodeUnavailable(
            f"{self.socket}: the node stopped while it deployed; the deployment is rolled back when the node starts"
        )

    def staging(self) -> StagingStatus:
        """Show transfers under way and the use of the cache."""
        return self._get(StagingStatus, "GET", "staging")

    def prefetch(self, order: PrefetchOrder, advance: Callable[[int, int], None]) -> PrefetchResult:
        """Have an image on the node; `advance` hears bytes settled of all. The node goes on when this call is left early.

        Raises:
            The very error that the node ended with.
        """
        with closing(self._steps(PrefetchStep, "prefetches", order)) as steps:
            for step in steps:
                advance(step.done, step.total)
                if step.result is not None:
                    return step.result
        raise NodeUnavailable(
            f"{self.socket}: the node stopped while it fetched; partial data is kept: fetch again to resume"
        )

    def unpin(self, image: str) -> UnpinResult:
        """Unpin an image."""
        return self._get(UnpinResult, "DELETE", f"pins/{_part(image)}")

    def machines(self) -> list[MachineRecord]:
        """All machines, the oldest first."""
        return list(self._get(MachineList, "GET", "machines").machines)

    def exposure(self, of: str = "") -> ExposureList:
        """The machines that run an image, or one that a key vouched for, and which are affected by revocations."""
        return self._get(ExposureList, "GET", "exposure", params={"of": of})

    def machine(self, name: str) -> MachineRecord:
        """One machine, by UUID, the beginning of one, or name."""
        return self._get(MachineRecord, "GET", f"machines/{_part(name)}")

    def console(self, name: str, *, follow: bool = False, offset: int = 0) -> Iterator[bytes]:
        """Yield a guest's console output, from an offset in bytes; with `follow` until the machine has ended."""
        while True:
            params = {"offset": str(offset), "wait": str(MAX_WAIT / 2 if follow else 0)}
            answer = self._request("GET", f"machines/{_part(name)}/console", params=params)
            offset = int(answer.headers.get(OFFSET_HEADER, offset)) + len(answer.content)
            if answer.content:
                yield answer.content
            elif not follow or answer.headers.get(STATE_HEADER) not in {
                MachineState.BOOTING,
                MachineState.RUNNING,
                MachineState.PAUSED,
            }:
                return

    def shutdown(self, name: str, wait: float = 0.0) -> MachineRecord:
        """Ask a guest to power off, and wait for its end for so many seconds; returns the record as it then is.

        While it waits it asks again: a guest that is still booting does not see the power button.
        """
        until = time.monotonic() + wait
        record = self._get(MachineRecord, "POST", f"machines/{_part(name)}/shutdown")
        while (left := until - time.monotonic()) > 0 and record.state in {MachineState.RUNNING, MachineState.PAUSED}:
            params = {"wait": f"{min(left, ASK_AGAIN):.3f}", "ask": "false"}
            record = self._get(MachineRecord, "POST", f"machines/{record.uuid}/shutdown", params=params)
            if record.state is MachineState.RUNNING:
                with suppress(MachineConflict):  # it powered off between the two requests
                    self._get(MachineRecord, "POST", f"machines/{record.uuid}/shutdown")
        return record

    def do(self, name: str, verb: OperationName) -> MachineRecord:
        """Pause, resume, suspend, reactivate, stop or reboot a machine; returns its record when that is done."""
        return self._get(MachineRecord, "POST", f"machines/{_part(name)}/do/{verb}", timeout=LONG)

    def resize(self, name: str, sized: ResizeRequest) -> MachineRecord:
        """Resize a machine within its maximum."""
        return self._get(MachineRecord, "POST", f"machines/{_part(name)}/resize", content=canonical(sized))

    def extend(self, name: str, lifetime: int) -> MachineRecord:
        """Set the remaining lifetime of a machine, in seconds from now."""
        return self._get(
            MachineRecord, "POST", f"machines/{_part(name)}/extend", content=canonical(ExtendRequest(lifetime=lifetime))
        )

    def save(self, name: str, order: SaveOrder) -> SavedImage:
        """Save a machine that rests as an image directory on the node's computer."""
        path = f"machines/{_part(name)}/save"
        return self._get(SavedImage, "POST", path, content=canonical(order), timeout=LONG)

    def addresses(self, name: str) -> list[str]:
        """A machine's IP addresses, as far as they are known."""
        found = read_json(self._ask("GET", f"machines/{_part(name)}/addresses"), "answer of the node")
        return [str(address) for address in found] if isinstance(found, list) else []

    def destroy(self, name: str) -> MachineRecord:
        """End a machine and remove its files; returns its last record."""
        return self._get(MachineRecord, "DELETE", f"machines/{_part(name)}")

    def _get(self, model: type[D], method: str, path: str, **options: Any) -> D:
        return parse(model, self._ask(method, path, **options), "answer of the node", limit=MAX_STEP)

    def _ask(self, method: str, path: str, **options: Any) -> bytes:
        return self._request(method, path, **options).content

    def _reach(self) -> None:
        """Check once that the socket is served: httpx2 leaks a socket that no process answers."""
        if self._reached:
            return
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as trial:
            trial.settimeout(5.0)
            try:
                trial.connect(str(self.socket))
            except OSError as exc:
                raise NodeUnavailable(
                    f"{self.socket}: no node answers there ({exc.strerror or exc}); start one with `partita node serve`"
                ) from exc
        self._reached = True

    def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        self._reach()
        try:
            answer = self._http.request(method, f"/{NODE_API_VERSION}/{path}", **options)
        except httpx2.HTTPError as exc:
            raise self._unavailable(exc) from exc
        _raise_problem(answer)
        return answer

    def _steps(self, model: type[S], path: str, order: Document) -> Generator[S, None, None]:
        """POST an order, and the steps of the answer; raises the error that the node ended with."""
        with closing(self._lines(path, canonical(order))) as lines:
            for line in lines:
                step = parse(model, line, "step of the node", limit=MAX_STEP)
                if step.problem is not None:
                    raise from_problem(step.problem) or BackendFailed("the node failed; its log has the reason")
                yield step

    def _lines(self, path: str, content: bytes) -> Generator[bytes, None, None]:
        """POST, and the lines of the answer as they come; closing it early closes the connection."""
        rest = b""
        self._reach()
        try:
            with self._http.stream("POST", f"/{NODE_API_VERSION}/{path}", content=content) as answer:
                if answer.is_error:
                    answer.read()
                    _raise_problem(answer)
                for chunk in answer.iter_bytes():
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from whole
                    if len(rest) > MAX_STEP:
                        raise BackendFailed(f"{self.socket}: the node sends a line of more than {MAX_STEP} bytes")
        except httpx2.HTTPError as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, exc: httpx2.HTTPError) -> NodeUnavailable:
        return NodeUnavailable(
            f"{self.socket}: the node does not answer ({exc or type(exc).__name__}); look at its log"
        )


def _part(name: str) -> str:
    """A name as a person typed it, as one segment of a path."""
    return quote(name, safe="")


def _raise_problem(answer: httpx2.Response) -> None:
    if answer.is_error:
        problem = read_problem(answer.content)
        if is_unknown_route(problem):
            raise NodeUnavailable(f"{problem}; if the node's service is of another release, restart it with this one")
        raise problem or BackendFailed(f"the node answers {answer.status_code} and no reason; its log has more")
