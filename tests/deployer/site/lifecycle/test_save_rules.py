"""Saving through the site: when it may be asked for, what a node's word makes of it, and the whole way with a real guest."""

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.access import rule_store
from catalog.access.rules import RegisteredSite, format_credential
from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.errors import Conflict, NotFound
from catalog.publication.state_directory import open_database
from deployer.errors import MachineConflict
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.protocol.save import SaveStatus
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.machines import desired_state, get_machine
from deployer.site.db.nodes import revision_of
from deployer.site.lifecycle import save_rules as saving
from deployer.site.lifecycle import verb_rules as lifecycle
from deployer.site.lifecycle.save_rules import abandon_save, apply_save_report
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.records import SiteMachine
from deployer.site.store.changes import change_machine
from tests.support.catalog.service_process import now
from tests.support.node.boot_sector_guest import SAID
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.site.service_process import SiteProcess
from tests.support.site.values import IMAGE, NOW, World, machine, observed
from tests.support.site.values import world as make_world

SECRET = "s" * 43


def resting(**changes: object) -> SiteMachine:
    """A machine that is paused."""
    return machine(**{"desired": DesiredStatus.PAUSED, "state": MachineState.PAUSED} | changes)


def asked(one: SiteMachine, version: str = "1.1", key: str = "") -> SiteMachine:
    """The same, asked to be saved."""
    change = saving.request_save(one, version, key, "by ann", NOW)
    return one if change is None else change.machine


def said(number: int = 1, state: str = "saved", **values: object) -> SaveStatus:
    """A node's word."""
    image = {"image_id": IMAGE, "title": "star/worker@1.1"} if state in {"sending", "saved"} else {}
    return SaveStatus.model_validate({"number": number, "state": state} | image | values)


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (machine(), "pause, suspend or stop it first"),
        (machine(desired=DesiredStatus.PAUSED), "wait until it is so"),
        (resting(desired=DesiredStatus.RUNNING), "pause, suspend or stop"),
        (resting(desired=DesiredStatus.ENDED), "has ended, or is about to"),
        (machine(state=MachineState.FAILED, desired=DesiredStatus.ENDED), "has ended"),
        (asked(resting()), "is being saved as version 1.1"),
    ],
)
def test_machines_that_cannot_be_saved_now(one: SiteMachine, says: str) -> None:
    """Says what would have to be."""
    with pytest.raises(MachineConflict, match=says):
        saving.request_save(one, "1.2", "", "", NOW)


@pytest.mark.parametrize("want", [DesiredStatus.PAUSED, DesiredStatus.SUSPENDED, DesiredStatus.STOPPED])
def test_a_save_goes_its_way(want: DesiredStatus) -> None:
    """Asked for, read, sent, done; each step told once, whatever a node says again or late."""
    one = resting(desired=want, state=MachineState(want.value))
    change = saving.request_save(one, "1.1", "k", "for a look (by ann)", NOW)
    assert change is not None
    assert change.events == (("saving", "as version 1.1: for a look (by ann)"),)
    one, told = change.machine, []
    for word in (
        None,
        said(state="reading"),
        said(state="sending", done=1, total=9),
        said(number=7, state="failed"),
        said(state="sending", done=5, total=9),
        said(done=9, total=9),
        said(state="failed", reason="late"),
    ):
        one, more = apply_save_report(one, word)
        told += [what for what, _ in more]
    assert told == ["sending", "saved"]
    (done,) = one.saves
    assert (done.state, done.image_id, done.done) == ("saved", IMAGE, 9)
    assert saving.request_save(one, "1.1", "k", "", NOW) is None
    assert saving.request_save(one, "1.1", "", "", NOW) is None  # it is so already
    with pytest.raises(Conflict):
        saving.request_save(one, "1.2", "k", "", NOW)
    assert asked(one, "1.2").saves[-1].number == 2
    assert abandon_save(one, "too late") == (one, ())


def test_a_save_that_failed_may_be_asked_for_again() -> None:
    """By another key, or none; who sends the same again hears that it failed."""
    one, told = apply_save_report(asked(resting(), key="k"), said(state="failed", reason="no room"))
    assert told == (("not-saved", "no room"),)
    assert saving.request_save(one, "1.1", "k", "", NOW) is None
    assert [each.number for each in asked(one, key="k2").saves] == [1, 2]
    for number in range(40):
        one = apply_save_report(asked(one, f"2.{number}"), said(number=number + 2, state="failed"))[0]
    assert len(one.saves) == saving.KEPT


@pytest.mark.parametrize("verb", [Verb.RESUME, Verb.REACTIVATE])
def test_a_machine_goes_on_once_its_disks_have_been_read(verb: Verb) -> None:
    """What is being sent holds nobody up; an end waits for nothing."""
    want = DesiredStatus.PAUSED if verb is Verb.RESUME else DesiredStatus.STOPPED
    one = asked(resting(desired=want, state=MachineState(want.value)))
    with pytest.raises(MachineConflict, match="before its disks have been read"):
        lifecycle.apply_verb(one, verb, "", NOW)
    assert lifecycle.apply_verb(one, Verb.DESTROY, "", NOW) is not None
    sent, _ = apply_save_report(one, said(state="sending"))
    change = lifecycle.apply_verb(sent, verb, "", NOW)
    assert change is not None
    assert change.machine.desired is DesiredStatus.RUNNING


@pytest.fixture
def world(database: SiteDatabase) -> World:
    """A store of either kind."""
    return make_world(database)


def test_a_node_hears_of_a_save_until_it_has_told_of_its_end(world: World) -> None:
    """In the store: each step a revision or an event; what ends before it was saved says that it was not."""
    node = world.join("n1")
    one, other = world.admit(count=2)[1]
    world.report(node, observed(one, MachineState.RUNNING), observed(other, MachineState.RUNNING))
    for each in (one, other):
        world.store.write(change_machine, each.uuid, lambda found: lifecycle.apply_verb(found, Verb.PAUSE, "", NOW))
    world.report(node, observed(one, MachineState.PAUSED), observed(other, MachineState.PAUSED))
    before = world.store.read(revision_of, node)
    for each in (one, other):
        world.store.write(change_machine, each.uuid, lambda found: saving.request_save(found, "1.1", "", "by ann", NOW))
    assert world.store.read(revision_of, node) == before + 2
    wishes = [each.save for each in world.store.read(desired_state, node).machines]
    assert [(wish.number, wish.version) for wish in wishes if wish] == [(1, "1.1")] * 2
    told = world.report(
        node,
        observed(one, MachineState.PAUSED, saved=said()),
        observed(other, MachineState.PAUSED, saved=said(state="sending")),
    )
    assert told == [("saved", f"star/worker@1.1 ({IMAGE})"), ("sending", f"star/worker@1.1 ({IMAGE})")]
    assert [each.save is None for each in world.store.read(desired_state, node).machines] == [True, False]
    told = world.report(
        node, observed(one, MachineState.PAUSED, saved=said()), observed(other, MachineState.ENDED, reason="destroyed")
    )
    assert [what for what, _ in told] == ["ended", "not-saved"]
    assert world.store.read(get_machine, other.uuid).saves[-1].state == "failed"
    assert world.store.read(get_machine, one.uuid).saves[-1].state == "saved"


@pytest.mark.guest
@pytest.mark.timeout(300)
def test_a_machine_is_saved_into_the_catalog_over_a_kill(
    make_site: Callable[..., SiteProcess], community: Community, warm: Path, tmp_path: Path
) -> None:
    """A real guest's changes become a candidate that its VO can look at; without a right at the catalog that is said."""
    name = f"site-{uuid.uuid4().hex[:8]}"
    database = open_database(community.service.directory)
    with database.writing() as connection:
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        rule_store.register_site(connection, RegisteredSite(name, frozenset({"star"})), digest, now(), renew=False)
    database.close()
    secret = tmp_path / "credential"
    secret.touch(mode=0o600)
    secret.write_text(format_credential(name, SECRET))
    site = make_site(community.service.url, policy(community.star.anchor()))
    node = NodeProcess(community.service.url, policy(community.star.anchor()), warm=warm)
    try:
        site.join(node.directory / "n" / "site", "worker")
        node.start()
        with site.client() as client:
            wait_for(lambda: client.node("worker").reported, 60)
            one = site.deploy().machines[0].uuid
            site.wait_state(one, "running")
            wait_for(lambda: SAID[-1] in client.console(one, 64 << 10), 60)
            with pytest.raises(MachineConflict, match="pause, suspend or stop"):
                client.save(one, "7.1", "k1")
            client.do(one, "pause")
            site.wait_state(one, "paused")
            client.save(one, "7.0", "k0")
            failed = wait_for(lambda: (last := client.machine(one).saves[-1]).state == "failed" and last, 60)
            assert "credential" in failed.reason
            node.kill()
            node._node["credential"] = str(secret)
            client.save(one, "7.1", "k1")
            node.start()
            assert client.save(one, "7.1", "k1").saves[-1].number == 2
            saved = wait_for(lambda: (last := client.machine(one).saves[-1]).state == "saved" and last, 60)
            assert (saved.title, saved.changed) == ("star/hello@7.1", ("part1",))
            assert [each.what for each in client.events(0).items if each.subject == one and "sav" in each.what] == [
                "saving",
                "not-saved",
                "saving",
                "saved",
            ]
            with CatalogClient(community.service.url, credential=format_credential(name, SECRET)) as catalog:
                (candidate,) = [each for each in catalog.candidates("star") if each.version == "7.1"]
                assert (candidate.image_id, candidate.complete) == (saved.image_id, True)
                bundle = transfer.fetch_candidate(catalog, candidate.image_id, tmp_path / "looked")
            changed = next(bundle.manifest.partitions()).content
            assert changed is not None
            assert b"Wontent of the first partition" in bundle.content(changed).read_bytes()
            wait_for(lambda: list((node.directory / "n" / "saves").iterdir()) == [], 60)
            with pytest.raises(NotFound, match="is listed"):  # nobody has endorsed it
                site.deploy(saved.image_id)
            client.do(one, "resume")
            site.wait_state(one, "running")
            client.do(one, "destroy")
            site.wait_state(one, "ended")
    finally:
        node.__exit__()
