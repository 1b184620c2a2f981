"""Saves that a site wants, on a node that dies at any step: each is made once, told, and leaves nothing behind."""

import shutil
import threading
import uuid as uuids
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import NotEntitled, Unavailable
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import Manifest
from deployer.errors import MachineConflict
from deployer.machine.state import MachineState
from deployer.node import backoff
from deployer.node.images.candidate_upload import CandidateUploader, changed_partitions
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus
from deployer.protocol.save import DesiredSave, SaveStatus
from signer.runtime.progress import Advance
from tests.support import factories
from tests.support.node.fake_hypervisor import LightNode, LightSite
from tests.support.node.fake_site import machine
from tests.support.node.service_process import wait_for


class World:
    """One machine that rests on a light node, and a catalog that takes what it is offered."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.node, self.site = LightNode(place / "machines"), LightSite()
        agent = self.node.agent(self.site)
        agent.start()
        self.uuid = str(uuids.uuid4())
        self.site.say(DesiredState(revision=2, machines=(machine(self.uuid, desired=DesiredStatus.PAUSED),)))
        wait_for(lambda: self.node.made and self.node.keeper.store.get(self.uuid).state is MachineState.PAUSED, 60)
        agent.close()
        self.parent = factories.bundle(place / "parent", partitions=2, size=1 << 20, seed=1)
        self.read: list[str] = []
        self.offered: list[str] = []
        self.fails: list[Exception] = []
        """What the catalog says next, one after the other, before it takes what it is offered."""
        self.dies = ""
        """The step after which the node dies: it goes on no further."""
        self.hold = threading.Event()
        self.hold.set()
        self.offering = self.open()

    def open(self) -> CandidateUploader:
        """The service begins (again)."""
        self.offering = CandidateUploader(
            self.place / "saves",
            self.node.keeper,
            self._read,
            lambda _: self.parent.manifest,
            lambda _: {address: self.parent.content(address) for address in self.parent.manifest.contents()},
            self._offer,
        )
        return self.offering

    def _read(self, _uuid: str, target: Path, version: str) -> None:
        self.read.append(version)
        self._die("nothing")
        draft = target.with_name(f".{target.name}.12345678.draft")
        shutil.rmtree(draft, ignore_errors=True)  # what a killed maker left, as `drafting` does
        factories.bundle(draft, partitions=2, size=1 << 20, seed=2)
        self._die("half of it")
        document = factories.manifest(list(Bundle.open(draft).manifest.contents()), version=version)
        (draft / "manifest.json").write_bytes(document.canonical())
        draft.rename(target)
        self._die("reading")

    def _offer(self, bundle: Bundle, advance: Advance) -> None:
        while not self.hold.wait(0.01):
            advance(0)
        if self.fails:
            raise self.fails.pop(0)
        for address in bundle.manifest.contents():
            assert bundle.content(address).stat().st_size == address.size
            advance(address.size)
        self.offered.append(bundle.manifest.image_id)
        self._die("sending")

    def _die(self, step: str) -> None:
        if self.dies == step:
            self.dies = "dead"
            raise SystemExit  # as far as this thread is concerned: nothing that follows happens

    def desired(self, number: int | None = 1, **changes: object) -> DesiredMachine:
        """The machine as it is wanted."""
        wish = None if number is None else DesiredSave(number=number, version=f"2.{number}")
        return machine(self.uuid, desired=DesiredStatus.PAUSED, save=wish, **changes)

    def look(self, *machines: DesiredMachine) -> None:
        """One comparison."""
        self.offering.look(DesiredState(revision=3, machines=machines), self.node.keeper.store.all())

    def until(self, number: int = 1, state: str = "saved") -> SaveStatus:
        """What the machine's record says of a save, once it is in that state."""

        def found() -> SaveStatus | None:
            self.look(self.desired(number))
            seen = self.offering.progress().get(self.uuid) or self.node.keeper.store.get(self.uuid).saved
            return seen if seen is not None and (seen.number, seen.state) == (number, state) else None

        answer: SaveStatus = wait_for(found, 60)
        return answer

    def left(self) -> list[str]:
        """What lies in SAVES."""
        return sorted(path.name for path in (self.place / "saves").iterdir())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Nobody waits long."""
    monkeypatch.setattr(backoff, "RETRIES", replace(backoff.RETRIES, base=0.05))
    found = World(tmp_path)
    yield found
    found.hold.set()
    found.offering.close()


def test_a_save_is_made_told_and_cleaned_up_after_once(world: World) -> None:
    """And the next one after it, with its own number."""
    saved = world.until()
    assert (saved.title, saved.changed) == ("star/worker@2.1", ("part1", "part2"))
    assert saved.done == saved.total == 3 << 20
    for _ in range(3):
        world.look(world.desired(1))
    assert (world.read, world.offered, world.left()) == (["2.1"], [saved.image_id], [])
    assert world.until(2).image_id != saved.image_id
    assert world.read == ["2.1", "2.2"]


@pytest.mark.parametrize(
    ("step", "reads", "offers"), [("nothing", 2, 1), ("half of it", 2, 1), ("reading", 1, 1), ("sending", 1, 2)]
)
def test_a_node_that_dies_after_a_step_goes_on_from_there(world: World, step: str, reads: int, offers: int) -> None:
    """What was read is not read again, what was offered is offered as the same image; one save comes of it."""
    world.dies = step
    world.look(world.desired())
    wait_for(lambda: world.dies == "dead", 60)
    world.offering.close()
    world.node.open()
    world.open()
    saved = world.until()
    assert (len(world.read), len(world.offered)) == (reads, offers)
    assert set(world.offered) == {saved.image_id}
    world.look(world.desired())
    assert world.left() == []


def test_what_cannot_be_sent_for_now_is_tried_again_with_the_reason_told(world: World) -> None:
    """The disks are read once."""
    world.fails = [Unavailable("the catalog does not answer"), Unavailable("the catalog does not answer")]
    world.look(world.desired())
    wait_for(lambda: (seen := world.offering.progress().get(world.uuid)) and "does not answer" in seen.reason, 60)
    assert world.until().reason == ""
    assert world.read == ["2.1"]


@pytest.mark.parametrize("error", [NotEntitled("the site serves no such VO"), MachineConflict("it changed its table")])
def test_what_cannot_be_saved_has_failed_for_good(world: World, error: Exception) -> None:
    """With the reason; nothing is left, nothing is tried again."""
    world.fails = [error]
    assert world.until(1, "failed").reason == str(error)
    world.look(world.desired(1))
    assert (world.offered, world.left(), len(world.read)) == ([], [], 1)
    assert world.until(2).state == "saved"


@pytest.mark.parametrize("how", ["it is wanted no more", "it is to end", "it is gone"])
def test_what_nobody_wants_any_more_is_given_up(world: World, how: str) -> None:
    """Also while it is being sent."""
    world.hold.clear()
    world.until(1, "sending")
    last: Callable[[], None] = {
        "it is wanted no more": lambda: world.look(world.desired(None)),
        "it is to end": lambda: world.look(world.desired(1).model_copy(update={"desired": DesiredStatus.ENDED})),
        "it is gone": lambda: world.look(),
    }[how]
    wait_for(lambda: (last(), not world.offering.progress())[1], 60)
    wait_for(lambda: (last(), not world.left())[1], 60)
    assert world.offered == []
    assert world.node.keeper.store.get(world.uuid).saved is None


def test_what_is_as_it_was_is_no_change() -> None:
    """The first content is the kernel, and no partition."""

    def made(*digits: str) -> Manifest:
        return factories.manifest([Address.parse(digit * 64 + "-1048576") for digit in digits])

    assert changed_partitions(made("1", "2"), made("1", "3")) == ("part1",)
    assert changed_partitions(made("1", "2"), made("1", "2")) == ()
