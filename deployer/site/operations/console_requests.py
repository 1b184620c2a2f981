"""Asking nodes for what guests wrote to their serial consoles, while somebody waits for it.

A question waits for its node's long poll, goes with the answer to that, and comes back as a request of the node's. All of it
is in the memory of this process: a console is the guest's, it may be long, and nobody but who asks has a use for it.
"""

import asyncio
import uuid as uuids
from collections import defaultdict, deque
from collections.abc import Awaitable

from deployer.errors import SiteUnavailable
from deployer.protocol.desired_state import ConsoleRequest, ConsoleResponse

PATIENCE = 15.0
"""Seconds that a node has for an answer, beyond what it was asked to wait: it may be in the middle of a report."""

PER_NODE, IN_ALL = 32, 512
"""Questions that may be open at one node, and at all: a person reads one console at a time, a page of 64 KiB each."""


class ConsoleRequestQueue:
    """The questions of one service. On its event loop alone; nothing here is safe to use from other threads."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, asyncio.Future[ConsoleResponse]]] = {}
        self._new: dict[str, deque[ConsoleRequest]] = defaultdict(deque)
        self._listening: dict[str, set[asyncio.Future[None]]] = defaultdict(set)

    async def ask(
        self, node: str, machine: str, most: int, after: int | None = None, wait: float = 0.0
    ) -> ConsoleResponse:
        """What a machine's guest wrote.

        Args:
            node, machine: UUIDs.
            most: bytes at most.
            after: the first byte wanted; None: the last ones.
            wait: seconds to wait for bytes, with `after`.

        Raises:
            SiteUnavailable: the node does not answer, or too many ask at once.
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
                "the machine's node does not tell its console now; try again later, or look at it on the node"
            ) from exc
        finally:
            del self._open[name]

    def taken(self, node: str) -> tuple[ConsoleRequest, ...]:
        """What is to be asked of a node, each question once; those that nobody waits for any more are left out."""
        return tuple(one for one in self._new.pop(node, ()) if one.id in self._open)

    async def called(self, node: str, seconds: float) -> None:
        """Until there is something to ask of a node, or the time is over."""
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
        """A node answers. What it was not asked, or nobody waits for any more, is dropped."""
        asked, waiting = self._open.get(answer.id, ("", None))
        if waiting is not None and asked == node and not waiting.done():
            waiting.set_result(answer)


async def wait_for_first(*waits: Awaitable[None]) -> None:
    """Until one of these is over; the others are given up."""
    tasks = [asyncio.ensure_future(one) for one in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
