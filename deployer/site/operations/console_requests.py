"""Requests to nodes for the output of guests on their serial consoles, while the requester waits.

A request waits for its node's long poll, is delivered in the answer to that, and is answered by a request of the node. All of it
stays in the memory of this process: console output is the guest's, may be long, and is of use to the requester only.
"""

import asyncio
import uuid as uuids
from collections import defaultdict, deque
from collections.abc import Awaitable

from deployer.errors import SiteUnavailable
from deployer.protocol.desired_state import ConsoleRequest, ConsoleResponse

PATIENCE = 15.0
"""Seconds that a node has for an answer, beyond the requested wait: it may be in the middle of a report."""

PER_NODE, IN_ALL = 32, 512
"""Open requests at one node, and in all: a person reads one console at a time, a page of 64 KiB each."""


class ConsoleRequestQueue:
    """The requests of one service. For its event loop alone; not safe to use from other threads."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, asyncio.Future[ConsoleResponse]]] = {}
        self._new: dict[str, deque[ConsoleRequest]] = defaultdict(deque)
        self._listening: dict[str, set[asyncio.Future[None]]] = defaultdict(set)

    async def ask(
        self, node: str, machine: str, most: int, after: int | None = None, wait: float = 0.0
    ) -> ConsoleResponse:
        """Read the console output of a machine's guest.

        Args:
            node, machine: UUIDs.
            most: bytes at most.
            after: the first byte wanted; None: the last ones.
            wait: seconds to wait for bytes, with `after`.

        Raises:
            SiteUnavailable: the node does not answer, or too many requests are open.
        """
        if len(self._open) >= IN_ALL or sum(at == node for at, _ in self._open.values()) >= PER_NODE:
            raise SiteUnavailable("too many consoles are being read at once; try again in a moment")
        name = str(uuids.uuid4())
        answer = asyncio.get_running_loop().create_future()
        self._open[name] = node, answer
        self._new[node].append(ConsoleRequest(id=name, machine=machine, most=most, after=after, wait=wait))
        for one in self._listening[node]:
            if not one.done():
                one.set_result(None)
        try:
            return await asyncio.wait_for(answer, wait + PATIENCE)
        except TimeoutError as exc:
            raise SiteUnavailable(
                "the machine's node does not answer for its console; try again later, or read it on the node"
            ) from exc
        finally:
            del self._open[name]

    def taken(self, node: str) -> tuple[ConsoleRequest, ...]:
        """The new requests for a node, each once; those without a waiting requester are left out."""
        return tuple(one for one in self._new.pop(node, ()) if one.id in self._open)

    async def called(self, node: str, seconds: float) -> None:
        """Wait until there is a request for a node, or the time is over."""
        if self._new.get(node):
            return
        one = asyncio.get_running_loop().create_future()
        self._listening[node].add(one)
        try:
            await asyncio.wait_for(one, seconds)
        except TimeoutError:
            pass
        finally:
            self._listening[node].discard(one)
            if not self._listening[node]:
                del self._listening[node]

    def answered(self, node: str, answer: ConsoleResponse) -> None:
        """Take a node's answer; drop it if the node was not asked or the requester no longer waits."""
        asked, waiting = self._open.get(answer.id, ("", None))
        if waiting is not None and asked == node and not waiting.done():
            waiting.set_result(answer)


async def wait_for_first(*waits: Awaitable[None]) -> None:
    """Wait until one of the awaitables is done, and cancel the others."""
    tasks = [asyncio.ensure_future(one) for one in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
