"""Who of the lost surely runs nothing: by the leases that nodes promised, or by a command. Never two at once, whatever the link does."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from deployer.errors import FencingFailed
from deployer.node.agent.lease import NodeLease
from deployer.protocol.desired_state import Capacity, LeaseTerms, ReportResponse
from deployer.site.model.records import NodeState, SiteNode
from deployer.site.operations.fencing import (
    FENCING_RETRY,
    CommandFencing,
    LeaseFencing,
    fence_none,
    fencing_command,
    make_fencing,
)
from deployer.site.settings import SiteSettings
from tests.support.node.service_process import wait_for

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
UUID = "00000000-0000-4000-8000-000000000003"


def node(**changes: Any) -> SiteNode:
    """A node that is lost, and promised a minute."""
    values = {
        "uuid": UUID,
        "name": "worker07",
        "state": NodeState.LOST,
        "joined": NOW,
        "reported": NOW,
        "capacity": Capacity(cores=1, memory=1, disk=1),
        "lease": 60,
    }
    return SiteNode.model_validate(values | changes)


class Clock:
    """Seconds, as somebody set them."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


def tells(told: list[tuple[str, str]]) -> Callable[[str, str, str], None]:
    """What keeps what is told of the node."""
    return lambda uuid, what, why: told.append((what, why)) if uuid == UUID else None


def test_a_promise_has_come_true_when_its_time_and_a_margin_are_over(clock: Clock, told: list[tuple[str, str]]) -> None:
    """Counted from when this service saw its last report first: the wall clock is not asked."""
    look = LeaseFencing(30, clock, tells(told))
    assert look([node(state=NodeState.READY)]) == frozenset()
    clock.at += 90
    assert look([node()]) == frozenset()
    assert not told
    clock.at += 0.5
    assert [look([node()]) for _ in range(2)] == [frozenset({UUID})] * 2
    assert told == [("fenced", "it has stopped its machines: it has not been heard for 90s")]


def test_a_report_begins_it_anew(clock: Clock, told: list[tuple[str, str]]) -> None:
    look = LeaseFencing(30, clock, tells(told))
    look([node()])
    clock.at += 80
    later = node(reported=NOW - timedelta(hours=1))  # its own word is that it came; the clock may have been set back
    look([later])
    clock.at += 80
    assert look([later]) == frozenset()
    clock.at += 11
    assert look([later]) == frozenset({UUID})


@pytest.mark.parametrize(
    ("what", "changes", "why"),
    [
        ("it promised nothing", {"lease": None}, ["unfenced"]),
        ("it is an account at EC2", {"kind": "ec2"}, ["unfenced"]),
        ("it is not lost", {"state": NodeState.READY}, []),
        ("it drains", {"state": NodeState.DRAINING}, []),
    ],
)
def test_who_is_never_taken_for_stopped(
    clock: Clock, told: list[tuple[str, str]], what: str, changes: dict[str, object], why: list[str]
) -> None:
    look = LeaseFencing(30, clock, tells(told))
    for _ in range(3):
        assert look([node(**changes)]) == frozenset(), what
        clock.at += 1000
    assert [one for one, _ in told] == why, what


def test_a_command_is_run_once_until_it_ends_well(clock: Clock, told: list[tuple[str, str]]) -> None:
    runs: list[str] = []

    def run(one: SiteNode) -> None:
        runs.append(one.name)
        if len(runs) < 3:
            raise FencingFailed("the plug is stuck")

    look = CommandFencing(run, clock, tells(told))
    assert look([node(state=NodeState.READY)]) == frozenset()
    assert not runs
    for count in (1, 2):
        assert look([node()]) == frozenset()
        wait_for(lambda count=count: len(runs) == count)  # type: ignore[misc]
        wait_for(lambda: told)
        time.sleep(0.05)  # it was told a moment before it is over
        assert look([node()]) == frozenset()
        assert len(runs) == count  # not again at once
        clock.at += FENCING_RETRY
    wait_for(lambda: look([node()]) == {UUID})
    assert look([node()]) == {UUID}
    assert len(runs) == 3
    assert told == [
        ("unfenced", "the plug is stuck"),
        ("fenced", "the site's command has made sure that it runs nothing"),
    ]
    assert look([node(reported=NOW + timedelta(seconds=5))]) == frozenset()  # it came back, and is lost again
    wait_for(lambda: len(runs) == 4)


def test_the_command_is_told_which_node(tmp_path: Path) -> None:
    said = tmp_path / "said"
    program = f"import os, sys; open({str(said)!r}, 'w').write(repr((sys.argv[1:], sorted(os.environ))))"
    fencing_command([sys.executable, "-c", program, "off"], 60)(node(labels={"rack": "7", "bmc": "10.0.0.7"}))
    words, variables = eval(said.read_text())  # noqa: S307 - what was written above
    assert words == ["off", "worker07", UUID, "bmc=10.0.0.7", "rack=7"]
    assert set(variables) <= {"PATH", "LANG", "LC_CTYPE"}


@pytest.mark.parametrize(
    ("what", "words", "said"),
    [
        ("it fails", ["/bin/sh", "-c", "echo no such plug >&2; exit 3"], "ended with 3: no such plug"),
        ("it says nothing", ["/bin/false"], "ended with 1$"),
        ("it is not there", ["/nowhere/fence"], "cannot be run: No such file"),
        ("it hangs, and leaves something", ["/bin/sh", "-c", "sleep 60 & sleep 60"], "did not end within 1s"),
        ("it says something odd", ["/bin/sh", "-c", r"printf 'a\033[2Jb'; exit 1"], r"ended with 1: a\?\[2Jb"),
    ],
)
def test_a_command_that_does_not_do_it(what: str, words: list[str], said: str) -> None:
    with pytest.raises(FencingFailed, match=said):
        fencing_command(words, 1)(node())


def test_settings_choose_a_way(clock: Clock) -> None:
    lease = LeaseTerms(seconds=60)
    for lost, command, expected in (
        ("wait", (), (None, fence_none)),
        ("wait", ("/bin/true",), (None, fence_none)),
        ("replace", (), (lease, LeaseFencing)),
        ("fail", (), (lease, LeaseFencing)),
        ("replace", ("/bin/true",), (None, CommandFencing)),
    ):
        settings = SiteSettings(directory=Path("site"), lost_machines=lost, fence_command=command)  # type: ignore[arg-type]
        found = make_fencing(settings, lambda *_: None, clock)
        assert found.lease == expected[0]
        assert found.look is fence_none if expected[1] is fence_none else isinstance(found.look, expected[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
def test_a_machine_never_runs_in_two_places(seed: int, tmp_path: Path) -> None:
    """A node and a site with a link between them that loses, delays and comes back; both are killed; the site's settings
    change. Each second of an hour: if the site is sure, the node runs nothing."""
    world = _Simulated(Random(seed), tmp_path / "lease")
    for _ in range(2000):
        world.step()
    assert world.seen == {"sure", "running", "frozen", "thawed"}


class _Simulated:
    """The site's part is `LeaseFencing` and what it remembers of the node; the node's is `NodeLease`. Messages take their time."""

    MARGIN = 5

    def __init__(self, rng: Random, file: Path) -> None:
        self._rng, self._file = rng, file
        self._site_clock, self._node_clock = Clock(), Clock()
        self._node_clock.at = rng.uniform(0, 1e6)
        self._setting = LeaseTerms(seconds=20)
        self._promised: int | None = None
        self._node = node()
        self._reported, self._lost = NOW, False
        self._replaced = False
        self._pending: tuple[float, str, float, Any] | None = None
        self._link = True
        self.seen = set[str]()
        self._fence = self._begin()
        self._look = LeaseFencing(self.MARGIN, self._site_clock, lambda *_: None)
        self._runs = True
        self._at = 0.0

    def _begin(self) -> NodeLease:
        return NodeLease(self._file, self._node_clock, "boot")

    def step(self) -> None:
        """A second goes by, and whatever may happen does."""
        rng = self._rng
        self._at += 1
        self._site_clock.at += 1
        self._node_clock.at += 1
        if rng.random() < 0.02:
            self._link = rng.random() < 0.5
        if rng.random() < 0.003:
            self._setting = LeaseTerms(seconds=rng.choice([10, 20, 40]))
            self._look = LeaseFencing(self.MARGIN, self._site_clock, lambda *_: None)  # the service began again
        if rng.random() < 0.003:  # the agent began again
            self._fence, self._pending = self._begin(), None
        self._talk()
        if self._fence.over():
            self.seen.add("frozen")
            self._runs = False
        self._lost = self._at - self._heard_at > 30
        state = NodeState.LOST if self._lost else NodeState.READY
        seen = self._node.model_copy(update={"lease": self._promised, "reported": self._reported, "state": state})
        if self._look([seen]):
            self.seen.add("sure")
            self._replaced = True
        if self._runs:
            self.seen.add("running")
        assert not (self._replaced and self._runs), "it runs in two places"

    _heard_at = 0.0

    def _talk(self) -> None:
        """One request at a time, as the agent's threads come down to: its way there, its way back, either of which may fail."""
        if self._pending is None:
            kind = "desired" if self._fence.frozen and self._rng.random() < 0.5 else "report"
            said = self._fence.said
            self._pending = self._at + self._rng.choice([0, 1, 3]), kind, self._node_clock.at, said
            return
        due, kind, sent, content = self._pending
        if self._at < due:
            return
        if kind == "answer":
            self._pending = None
            if self._link and self._rng.random() < 0.9:
                self._answered(sent, content)
        elif self._link:  # it arrives at the site
            if kind == "report":
                self._promised, self._heard_at = content, self._at
                self._reported += timedelta(seconds=1)
                content = ("report", content, ReportResponse(lease=self._setting))
            else:
                content = ("desired", not self._replaced, None)
            self._pending = self._at + self._rng.choice([0, 1, 3, 12]), "answer", sent, content
        else:
            self._pending = None

    def _answered(self, sent: float, content: tuple[str, Any, Any]) -> None:
        kind, what, heard = content
        if kind == "report":
            self._fence.heard(sent, what, heard)
        elif self._fence.confirmed(sent):
            self.seen.add("thawed")
            if what:
                self._runs = True
            else:  # it is ended here, and comes to another machine's place: the next one is placed here again
                self._replaced, self._runs = False, True
