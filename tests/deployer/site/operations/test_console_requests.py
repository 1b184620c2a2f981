"""A guest's serial console, from the file on its node to whoever may read it at the site: real site, real HTTPS, real agent."""

import asyncio
import threading
import uuid

import pytest

from deployer.errors import SiteUnavailable
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import ConsoleResponse
from deployer.site.operations import console_requests as asking
from deployer.site.operations.console_requests import PER_NODE, ConsoleRequestQueue

# The parts


def test_questions_are_answered_by_the_node_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; another node's word does not count; a silent node is said to be; too many questions are refused."""
    monkeypatch.setattr(asking, "PATIENCE", 0.3)

    async def work() -> None:
        serials = ConsoleRequestQueue()
        machine = str(uuid.uuid4())
        called = asyncio.ensure_future(serials.called("n1", 60))
        question = asyncio.ensure_future(serials.ask("n1", machine, 10, wait=60))
        await asyncio.wait_for(called, 60)
        (asked,) = serials.taken("n1")
        assert (asked.machine, asked.most, serials.taken("n1"), serials.taken("n2")) == (machine, 10, (), ())
        serials.answered("n2", ConsoleResponse(id=asked.id, state=MachineState.RUNNING, data="Zm9yZ2Vk"))
        serials.answered("n1", ConsoleResponse(id=str(uuid.uuid4()), state=MachineState.RUNNING))
        await asyncio.sleep(0)
        assert not question.done()
        serials.answered("n1", ConsoleResponse(id=asked.id, state=MachineState.RUNNING, data="b2s="))
        serials.answered("n1", ConsoleResponse(id=asked.id, state=MachineState.RUNNING, data="YWdhaW4="))
        assert (await question).data == "b2s="
        with pytest.raises(SiteUnavailable, match="does not answer for its console"):
            await serials.ask("n1", machine, 10)
        assert serials.taken("n1") == ()  # nobody waits for that any more
        many = [asyncio.ensure_future(serials.ask("n1", machine, 10, wait=60)) for _ in range(PER_NODE)]
        await asyncio.sleep(0)
        with pytest.raises(SiteUnavailable, match="too many"):
            await serials.ask("n1", machine, 10)
        other = asyncio.ensure_future(serials.ask("n2", machine, 10, wait=60))
        await asyncio.sleep(0)
        assert len(serials.taken("n1")) == PER_NODE
        for one in (*many, other):
            one.cancel()
        await asyncio.gather(*many, other, return_exceptions=True)
        assert serials._open == {}

    ended: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as exc:  # noqa: BLE001 - raised below
            ended.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    if ended:
        raise ended[0]
