"""Audit entries are filtered and read page by page."""

from datetime import timedelta
from typing import Any

import pytest

from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event, list_audit_entries
from deployer.site.model.current_actor import acting_as
from deployer.site.model.principal import LOCAL_OPERATOR
from deployer.site.model.records import AuditFilter, AuditRecord, NodeState
from deployer.site.store.changes import add_cluster, change_machine, set_node_state
from tests.support.site.values import ALICE, BOB, CAROL, NOW, World, cluster_of, telling
from tests.support.site.values import world as make_world


@pytest.fixture
def world(database: SiteDatabase) -> World:
    """A store of either kind."""
    return make_world(database)


def read(world: World, limit: int = 100, **wanted: Any) -> list[tuple[str, str, str]]:
    """What, by whom, and whose: page after page, the last first."""
    found: list[AuditRecord] = []
    before = None
    while True:
        page, before = world.store.read(list_audit_entries, AuditFilter(**wanted), limit, before)
        found += page
        if before is None:
            break
    assert [one.event.number for one in found] == sorted((one.event.number for one in found), reverse=True)
    return [(one.event.what, one.by.rpartition(" ")[2], one.owner.rpartition(" ")[2]) for one in found]


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_the_audit_is_filtered_and_read_page_by_page(world: World, limit: int) -> None:
    """By who did it, whose it was, VO, thing and time; what the site did by itself is nobody's."""
    node = world.join("n1", cores=64)
    with acting_as(ALICE):
        mine = world.machine(owner=ALICE)
    world.clock.advance(minutes=1)
    with acting_as(BOB):
        world.admit(owner=BOB)
    world.clock.advance(minutes=1)
    with acting_as(CAROL):
        world.admit(owner=CAROL)
        world.store.write(add_cluster, CAROL, *cluster_of("c"))
    world.clock.advance(minutes=1)
    with acting_as(LOCAL_OPERATOR):
        world.store.write(set_node_state, node, NodeState.DRAINING, "maintenance")
    with acting_as(BOB):  # as an administrator of the VO
        world.store.write(
            change_machine, mine.uuid, telling(lambda one: one.model_copy(update={"warned": True}), "warned", "")
        )
    everything = read(world, limit)
    assert len(everything) == world.store.read(last_event)
    assert everything[0] == ("warned", "bob", "alice")
    assert everything[1] == ("draining", "operator", "")
    assert everything[-1] == ("joined", "", "")
    assert read(world, limit, by=BOB.identity) == [
        ("warned", "bob", "alice"),
        ("pending", "bob", "bob"),
        ("admitted", "bob", "bob"),
    ]
    assert {what for what, _, _ in read(world, limit, owner=ALICE.identity)} == {"admitted", "pending", "warned"}
    assert [by for _, by, _ in read(world, limit, vo="atlas")] == ["carol"] * 3  # her cluster too
    assert read(world, limit, by=BOB.identity, owner=ALICE.identity) == [("warned", "bob", "alice")]
    assert [what for what, _, _ in read(world, limit, subject=mine.uuid)] == ["warned", "pending"]
    assert read(world, limit, since=NOW + timedelta(minutes=3)) == everything[:2]
    assert {
        by for _, by, _ in read(world, limit, since=NOW + timedelta(minutes=1), until=NOW + timedelta(minutes=1))
    } == {"bob"}
    for nothing in (
        {"by": "nobody"},
        {"since": NOW + timedelta(days=1)},
        {"until": NOW - timedelta(days=1)},
        {"vo": "atlas", "owner": ALICE.identity},
    ):
        assert read(world, limit, **nothing) == []
