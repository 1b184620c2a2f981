"""What becomes of machines that go from one node to another: every step, and every word that comes late, twice or from elsewhere."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployer.errors import MachineConflict, NoCapacity
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.protocol.migration import MigrationProgress, MigrationSupport, Platform
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.machines import desired_state, get_machine
from deployer.site.db.nodes import revision_of
from deployer.site.lifecycle import migration_rules as moving
from deployer.site.lifecycle import verb_rules as lifecycle
from deployer.site.lifecycle.report_rules import reset_placement
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.records import Migration, NodeState, SiteMachine
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.changes import change_machine, set_node_state
from deployer.site.store.deadlines import place_waiting
from deployer.site.store.migration import give_up_migrations, migrate
from tests.support.site.values import NOW, World, machine, observed, telling
from tests.support.site.values import world as make_world

HERE = Platform(emulator="QEMU emulator version 7.2.22", libvirt="libvirt 9.0.0")
GIVES = MigrationSupport(url="https://192.0.2.1:7444", platform=HERE)
A, B = ("a" * 8 + "-0000-4000-8000-000000000000", "b" * 8 + "-0000-4000-8000-000000000000")


def going(**changes: Any) -> SiteMachine:
    """A machine that goes from A to B, and will run there."""
    move = Migration(number=2, source=A, target=B, desired=DesiredStatus.RUNNING)
    return machine(
        state=MachineState.SUSPENDED, desired=DesiredStatus.SUSPENDED, node=A, migration=move, migrations=2, **changes
    )


def arrival(number: int = 2, **values: Any) -> MigrationProgress:
    """What B says of it."""
    return MigrationProgress(uuid=going().uuid, number=number, **values)


def arrived(*, seen: bool = True) -> SiteMachine:
    """The same machine once it is B's, and A has not dropped it yet."""
    change = moving.apply_target_report(going(), arrival(ready=True, done=7), NOW)
    assert change is not None
    move = change.machine.migration
    assert move is not None
    return change.machine.model_copy(update={"migration": move.model_copy(update={"seen": seen})})


def test_what_is_held_changes_hands_in_one_step() -> None:
    """Only the target's word about this very move does it; the machine is to run then, and the source is remembered."""
    after = moving.apply_target_report(going(), arrival(ready=True, done=7), NOW)
    assert after is not None
    one = after.machine
    assert (one.node, one.desired, one.migrated, one.other_node, one.migrating) == (
        B,
        DesiredStatus.RUNNING,
        2,
        A,
        None,
    )
    assert [what for what, _ in after.events] == ["migrated", "reactivating"]
    assert one.state is MachineState.SUSPENDED  # until its new node says otherwise


WORDS: list[tuple[str, SiteMachine, MigrationProgress | None]] = [
    ("nothing is said of it", going(), None),
    ("it is of an earlier attempt", going(), arrival(1, ready=True)),
    ("it is of a later one", going(), arrival(3, ready=True)),
    ("it has changed hands already", arrived(), arrival(ready=True)),
    ("it is to end", going().model_copy(update={"desired": DesiredStatus.ENDED}), arrival(ready=True)),
    ("it has ended", going().model_copy(update={"state": MachineState.FAILED}), arrival(ready=True)),
    (
        "nobody moves it",
        machine(state=MachineState.SUSPENDED, desired=DesiredStatus.SUSPENDED, node=A),
        arrival(ready=True),
    ),
]


@pytest.mark.parametrize(("why", "before", "word"), WORDS, ids=[why for why, _, _ in WORDS])
def test_words_that_change_nothing(why: str, before: SiteMachine, word: MigrationProgress | None) -> None:
    """A machine never changes hands by a word that is not about this move, now."""
    assert moving.apply_target_report(before, word, NOW) is None, why


def test_a_move_that_fails_leaves_the_machine_where_it_was() -> None:
    """Resting, with the reason told, and another attempt has another number."""
    change = moving.apply_target_report(going(), arrival(failed="the policy says no"), NOW)
    assert change is not None
    assert change.events == (("migration-failed", "the policy says no"),)
    after = change.machine
    assert (after.node, after.desired, after.state, after.migration) == (
        A,
        DesiredStatus.SUSPENDED,
        MachineState.SUSPENDED,
        None,
    )
    again = moving.start_migration(after, B, DesiredStatus.RUNNING, "", "B gets it")
    assert again.machine.migration is not None
    assert again.machine.migration.number == 3


def test_how_far_it_has_come_is_kept_and_not_told() -> None:
    change = moving.apply_target_report(going(), arrival(done=5, total=9), NOW)
    assert change is not None
    assert change.machine.migration is not None
    assert (change.machine.migration.done, change.machine.migration.total, change.events) == (5, 9, ())


def test_a_source_is_done_when_it_has_nothing_of_it_and_the_target_was_heard() -> None:
    assert moving.apply_source_report(arrived(), has=True) is None
    assert moving.apply_source_report(arrived(seen=False), has=False) is None
    change = moving.apply_source_report(arrived(), has=False)
    assert change is not None
    assert (change.machine.migration, change.machine.other_node, change.events[0][0]) == (None, None, "dropped")


@pytest.mark.parametrize(
    ("verb", "allowed"), [(verb, verb in {Verb.DESTROY, Verb.REACTIVATE}) for verb in Verb], ids=lambda it: str(it)
)
def test_what_may_be_done_to_a_machine_on_its_way(verb: Verb, allowed: bool) -> None:
    """It is ended, or waited for: everything else would race with the other node."""
    if not allowed:
        with pytest.raises(MachineConflict, match="is migrating to another node"):
            lifecycle.apply_verb(going(), verb, "", NOW)
        return
    change = lifecycle.apply_verb(going(), verb, "", NOW)
    assert (change is None) is (verb is Verb.REACTIVATE)
    if change is not None:
        assert (change.machine.migrating, change.machine.other_node) == (None, None)


RESTLESS: list[tuple[dict[str, Any], str]] = [
    ({"state": MachineState.RUNNING, "desired": DesiredStatus.RUNNING}, "suspend it"),
    ({"state": MachineState.RUNNING, "desired": DesiredStatus.SUSPENDED}, "wait until that is so"),
    ({"state": MachineState.PAUSED, "desired": DesiredStatus.PAUSED}, "suspend it"),
    ({"state": MachineState.ENDED, "desired": DesiredStatus.ENDED}, "has ended"),
    ({"state": MachineState.SUSPENDED, "desired": DesiredStatus.SUSPENDED, "node": None}, "on no node"),
]


@pytest.mark.parametrize(("fields", "says"), RESTLESS)
def test_only_what_rests_moves(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(MachineConflict, match=says):
        moving.check_at_rest(machine(**{"node": A} | fields))


PLATFORMS: list[tuple[dict[str, str], str]] = [
    ({}, ""),
    ({"emulator": "QEMU emulator version 8.2.0"}, "its emulator is QEMU emulator version 8.2.0"),
    ({"libvirt": "libvirt 10.0.0"}, "its libvirt is libvirt 10.0.0"),
    ({"processor": "5" * 32}, "its processor is"),
]


@pytest.mark.parametrize(("changes", "says"), PLATFORMS)
def test_memory_goes_on_where_it_was_saved_by_the_same(changes: dict[str, str], says: str) -> None:
    assert says in (found := HERE.model_copy(update=changes).lacks(HERE))
    assert bool(found) is bool(says)


class Pair:
    """A site of two nodes, and a machine that is suspended on one of them."""

    def __init__(self, world: World) -> None:
        self.world, self.store = world, world.store
        self.one, self.two = (world.join(name, migration_support=GIVES, accelerator="qemu") for name in ("one", "two"))
        self.uuid = world.machine().uuid
        self.source = self.store.read(get_machine, self.uuid).node or ""
        self.target = self.two if self.source == self.one else self.one
        self.says(self.source, MachineState.RUNNING)
        self.store.write(change_machine, self.uuid, lambda found: lifecycle.apply_verb(found, Verb.SUSPEND, "", NOW))
        self.says(self.source, MachineState.SUSPENDED)

    def says(self, node: str, *states: MachineState, **changes: Any) -> list[str]:
        """A node reports the machine in that state, or none; what was told of that."""
        found = self.store.read(get_machine, self.uuid)
        seen = [observed(found, state, virt="qemu") for state in states]
        told = self.world.report(node, *seen, migration_support=GIVES, accelerator="qemu", **changes)
        return [what for what, _ in told]

    def go(self, to: str = "", then: DesiredStatus = DesiredStatus.RUNNING) -> SiteMachine:
        """It is to move."""
        return self.store.write(migrate, self.uuid, to, then, "asked for by somebody", place_machines)

    def held(self, number: int = 1) -> list[str]:
        """The target says that it holds it."""
        word = MigrationProgress(uuid=self.uuid, number=number, ready=True)
        return self.says(self.target, MachineState.SUSPENDED, incoming=(word,))


@pytest.fixture
def pair(sqlite_template: Path, tmp_path: Path) -> Iterator[Pair]:
    """See there."""
    shutil.copy(sqlite_template, tmp_path / "site.db")
    with closing(SiteDatabase(f"sqlite:///{tmp_path / 'site.db'}")) as database:
        yield Pair(make_world(database))


def test_a_move_from_its_order_to_its_end(database: SiteDatabase) -> None:
    """On both databases: both nodes hear what concerns them, room is kept on both, and nobody is asked twice."""
    pair = Pair(make_world(database))
    store = pair.store
    move = pair.go().migration
    assert move is not None
    assert (move.source, move.target, move.number) == (pair.source, pair.target, 1)
    giving = store.read(desired_state, pair.source).machines[0].outgoing
    assert giving is not None
    assert (giving.to, giving.number) == (pair.target, 1)
    incoming = store.read(desired_state, pair.target).incoming
    assert incoming is not None
    assert (incoming[0].source, incoming[0].url, incoming[0].machine.uuid) == (pair.source, GIVES.url, pair.uuid)
    assert store.read(desired_state, pair.target).machines == ()
    with pytest.raises(MachineConflict):
        store.write(change_machine, pair.uuid, lambda found: lifecycle.apply_verb(found, Verb.SHUTDOWN, "", NOW))

    assert pair.held() == ["migrated", "reactivating"]
    assert store.read(get_machine, pair.uuid).node == pair.target
    assert store.read(desired_state, pair.source).machines == ()
    wanted = store.read(desired_state, pair.target)
    assert (wanted.incoming, wanted.machines[0].migrated, wanted.machines[0].desired) == (
        None,
        1,
        DesiredStatus.RUNNING,
    )
    assert pair.says(pair.target) == []  # said before it knew; it is not lost for that
    assert pair.says(pair.source, MachineState.SUSPENDED) == []  # it is to drop it, and is no stray
    assert pair.says(pair.target, MachineState.RUNNING) == ["running"]
    assert pair.says(pair.source) == ["dropped"]
    assert store.read(get_machine, pair.uuid).migration is None
    assert pair.says(pair.target) == ["failed"]  # what is seen to be gone now is gone


def test_an_end_ends_the_move_too(pair: Pair) -> None:
    pair.go()
    pair.store.write(change_machine, pair.uuid, lambda found: lifecycle.apply_verb(found, Verb.DESTROY, "", NOW))
    assert pair.store.read(desired_state, pair.target).incoming is None
    assert pair.held() == ["stray"]  # what it brought meanwhile is to go
    assert pair.store.read(get_machine, pair.uuid).node == pair.source


@pytest.mark.parametrize("lost", ["source", "target"])
@pytest.mark.parametrize("state", [NodeState.LOST, NodeState.LEFT])
def test_a_node_that_is_lost_ends_the_move(pair: Pair, lost: str, state: NodeState) -> None:
    """It rests where it was; that a source has left ends the machine, as ever."""
    pair.go()
    pair.store.write(set_node_state, getattr(pair, lost), state, "")
    left = lost == "source" and state is NodeState.LEFT
    assert give_up_migrations(pair.store) == (0 if left else 1)
    found = pair.store.read(get_machine, pair.uuid)
    assert (found.migrating, found.node) == (None, pair.source)
    assert found.state is (MachineState.FAILED if left else MachineState.SUSPENDED)
    assert give_up_migrations(pair.store) == 0


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("the emulator is another", {"platform": HERE.model_copy(update={"emulator": "QEMU 9"})}, "its emulator is QEMU 9"),
    ("it runs machines on another accelerator", {"accelerator": "kvm"}, "it runs machines on kvm"),
    ("it does not support migration", {"migration_support": None}, "does not support migration"),
    ("it is full", {"sizes": (0, 0, 0)}, "it has 0 of 1 cores free"),
    ("it says that it cannot", {"problem": "there is no policy"}, "there is no policy"),
]


@pytest.mark.parametrize(("why", "said", "says"), REFUSED, ids=[why for why, _, _ in REFUSED])
def test_a_node_that_cannot_go_on_with_it_is_not_asked(pair: Pair, why: str, said: dict[str, Any], says: str) -> None:
    """And who asked is told why, of each node."""
    changes: dict[str, Any] = {"migration_support": GIVES, "accelerator": "qemu"} | said
    if "platform" in changes:
        changes["migration_support"] = MigrationSupport(url=GIVES.url, platform=changes.pop("platform"))
    if "sizes" in changes:
        pair.world.sizes[pair.target] = changes.pop("sizes")
    pair.world.report(pair.target, **changes)
    with pytest.raises(NoCapacity, match=says):
        pair.go()
    with pytest.raises(NoCapacity, match=says):
        pair.go(pair.target)
    assert pair.store.read(get_machine, pair.uuid).migration is None


def test_a_node_that_gives_nothing_away_says_so_plainly(pair: Pair) -> None:
    pair.world.report(
        pair.source, observed(pair.store.read(get_machine, pair.uuid), MachineState.SUSPENDED), migration_support=None
    )
    with pytest.raises(MachineConflict, match=r"migrates no machines to other nodes; set deploy\.migration_listen"):
        pair.go()


def test_room_is_kept_where_it_goes(pair: Pair) -> None:
    """Two machines never both get the last place of a node, one by being migrated there and one by being ordered."""
    pair.go()
    most = pair.world.sizes[pair.target][0]
    with pytest.raises(NoCapacity):
        pair.world.machine(cores=most)


def test_a_machine_that_is_only_to_rest_elsewhere_rests(pair: Pair) -> None:
    pair.go(then=DesiredStatus.SUSPENDED)
    assert pair.held() == ["migrated"]
    assert pair.store.read(get_machine, pair.uuid).desired is DesiredStatus.SUSPENDED
    pair.world.clock.at += timedelta(seconds=1)


def test_what_is_made_anew_never_finds_an_older_copy(pair: Pair) -> None:
    """The node that it went to is lost before the one that it left has dropped its copy: it is placed where there is none."""
    pair.go()
    pair.held()
    pair.says(pair.target, MachineState.RUNNING)
    store = pair.store
    store.write(set_node_state, pair.target, NodeState.LOST, "")
    store.write(
        change_machine,
        pair.uuid,
        telling(lambda found: reset_placement(found, "its node is lost", NOW), "replaced", ""),
    )
    assert place_waiting(store, place_machines) == 0
    assert store.read(get_machine, pair.uuid).node is None
    assert pair.says(pair.source) == ["dropped"]
    assert place_waiting(store, place_machines) == 1
    found = store.read(get_machine, pair.uuid)
    assert (found.node, found.migrated) == (pair.source, None)


def test_a_node_that_gives_at_another_address_is_found_there(pair: Pair) -> None:
    pair.go()
    known = pair.store.read(revision_of, pair.target)
    other = GIVES.model_copy(update={"url": "https://192.0.2.9:7444"})
    pair.world.report(
        pair.source, observed(pair.store.read(get_machine, pair.uuid), MachineState.SUSPENDED), migration_support=other
    )
    assert pair.store.read(revision_of, pair.target) > known
    incoming = pair.store.read(desired_state, pair.target).incoming
    assert incoming is not None
    assert incoming[0].url == other.url
