"""Who did what at a site: written with each event, and read by those who may, filtered and page by page."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployer.errors import Forbidden
from deployer.site.client.client import SiteClient
from deployer.site.client.discovery import operator_socket
from deployer.site.db.audit import list_audit_entries
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event
from deployer.site.model.current_actor import acting_as, get_actor, set_actor
from deployer.site.model.principal import LOCAL_OPERATOR
from deployer.site.model.records import AuditFilter, AuditRecord, NodeState
from deployer.site.store.changes import add_cluster, change_machine, set_node_state
from tests.support.site.service_process import PaperNode, People, SiteProcess, populace
from tests.support.site.values import ALICE, BOB, CAROL, NOW, World, telling
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
        world.store.write(add_cluster, CAROL, "c", "{}")
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


def test_who_acts_is_known_within_their_request_alone() -> None:
    """Nobody acts where nothing was asked for, whatever others do at the same time."""
    seen: list[str] = []
    with acting_as(ALICE):
        thread = threading.Thread(target=lambda: seen.append(get_actor()))
        thread.start()
        thread.join()
        with acting_as(BOB):
            seen.append(get_actor())
        seen.append(get_actor())
        set_actor(CAROL)
        seen.append(get_actor())
    seen.append(get_actor())
    assert seen == ["", BOB.identity, ALICE.identity, CAROL.identity, ""]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Two issuers."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


def test_security_reads_what_everybody_did(
    people: People, make_site: Callable[..., SiteProcess], tmp_path: Path
) -> None:
    """Over the API, the command's client and the console's page; those who may not are refused."""
    site = make_site(**people.settings())
    node = PaperNode(site, "paper")
    with site.client() as operator:
        operator.do_node("paper", "drain", "maintenance")
        operator.do_node("paper", "undrain")
    assert node.step().revision
    with site.reach(token=people.star("ann")) as ann, pytest.raises(Forbidden):
        list(ann.audit(10))
    with site.reach(token=people.own("sam", "/site/security")) as sam:
        drained = _one(sam, "draining")
        assert (drained.by, drained.owner, drained.event.reason) == (
            LOCAL_OPERATOR.identity,
            "",
            "maintenance (by operator)",
        )
        assert _one(sam, "joined").by == ""
        assert [one.event.what for one in sam.audit(1)] == ["ready"]
        assert list(sam.audit(10, by="nobody")) == []
        assert list(sam.audit(10, machine="nothing")) == []
        assert [one.event.what for one in sam.audit(50, machine=drained.event.subject)][-1] == "joined"
        assert list(sam.audit(10, until="2020-01-01T00:00:00Z")) == []
        assert len(list(sam.audit(10, since="2020-01-01T00:00:00"))) >= 3
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(operator_socket(site.settings))), base_url="http://site", timeout=60
    ) as raw:
        first = raw.get("/v1/audit", params={"limit": 1}).json()
        second = raw.get("/v1/audit", params={"limit": 1, "after": first["next"]}).json()
        assert second["items"][0]["event"]["number"] == first["items"][0]["event"]["number"] - 1
        for wrong in ({"since": "yesterday"}, {"after": "x"}, {"limit": 0}):
            assert raw.get("/v1/audit", params=wrong).status_code == 400
        assert "by" not in raw.get("/v1/events").text.replace("(by operator)", "").replace("asked for by operator", "")


def _one(client: SiteClient, what: str) -> AuditRecord:
    return next(one for one in client.audit(100) if one.event.what == what)
