"""Admitting requests: real signatures, a real policy, real placement; what is refused, and what a dry run says."""

import base64
import hashlib
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from catalog.errors import Conflict, Misused, NotFound
from catalog.errors import Misused as CatalogMisused
from deployer.errors import MachineConflict, NoCapacity, OverQuota, Refused, UserDataRefused
from deployer.machine.spec import hostname_base
from deployer.machine.state import MachineState
from deployer.policy.anchors import anchor_block
from deployer.policy.revocations import BlockList, RevocationState
from deployer.policy.store import RuleSet
from deployer.protocol.deployment_request import DeploymentRequest, PlacementOptions
from deployer.protocol.machine_order import RequestDefaults
from deployer.site.db import machines as store_machines
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event
from deployer.site.db.machines import desired_state, usage_of
from deployer.site.db.nodes import revision_of
from deployer.site.lifecycle import verb_rules as lifecycle
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.model.quota import UNLIMITED, Quota, QuotaLimits, QuotaShare, ResourceUsage
from deployer.site.model.records import NodeState
from deployer.site.operations.admission import (
    AdmissionService,
    requester_of,
    site_wide_rules,
    writable_bytes,
)
from deployer.site.scheduling.placement import Placer
from deployer.site.scheduling.proposal import ClusterMembership
from deployer.site.store.changes import add_cluster, set_node_state
from deployer.site.store.reports import store_report
from signer.documents import canonical, validate
from signer.openpgp.keyring import Keyring
from signer.verification.endorsements import DEFAULT_ROLE, endorse
from signer.verification.signers import KeySigner
from tests.support.factories import manifest
from tests.support.node.service_process import policy
from tests.support.site.admission_desk import EVERYTHING, FOREIGN, PARTS, WORKER, Desk, Shelf, Signed
from tests.support.site.values import ALICE, BOB, GIB, MIB, capable, cluster_of, observed, world


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Real keys and signatures, made once."""
    place_ = tmp_path_factory.mktemp("signed")
    keyring, now = Keyring(place_ / "keys"), datetime.now(UTC).replace(microsecond=0)
    star, rogue = (keyring.generate(f"{name} <{name}@example.org>") for name in ("star", "rogue"))
    text = policy(machines=3) + anchor_block("star", DEFAULT_ROLE, star, keyring.export(star).decode())
    text += '[cedar]\nfiles = ["site.cedar"]\n'
    (place_ / "site.cedar").write_text(
        '@id("all") permit(principal, action, resource);\n'
        '@id("no-mallory") forbid(principal, action, resource) when { principal.name like "*mallory" };\n'
    )
    (place_ / "policy.toml").write_text(text)
    return Signed(
        RuleSet.load(place_ / "policy.toml"),
        endorse(KeySigner(keyring, star), WORKER.image_id, WORKER.title, now),
        endorse(KeySigner(keyring, rogue), FOREIGN.image_id, FOREIGN.title, now),
    )


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """SQLite alone: `test_store` sees to it that the other kind answers the same."""
    shutil.copy(sqlite_template, tmp_path / "site.db")
    return f"sqlite:///{tmp_path / 'site.db'}"


@pytest.fixture
def desk(database: SiteDatabase, signed: Signed) -> Desk:
    """star/worker@1.0 by star, and rogue/worker@1.0 by rogue; the clock is that of the signatures."""
    site = world(database)
    site.clock.at = datetime.now(UTC).replace(microsecond=0)
    shelf = Shelf()
    shelf.add(WORKER, signed.worker)
    shelf.add(FOREIGN, signed.foreign)
    nodes = (site.join("n1", cores=4), site.join("n2", cores=4))
    found: list[Desk] = []
    admitting = AdmissionService(
        site.store,
        shelf,
        lambda: signed.rules,
        lambda _who, _image: found[0].quota,
        RequestDefaults("user", "1h"),
        site.clock,
        lambda: RevocationState(blocks=found[0].blocks),
    )
    found.append(Desk(site, shelf, admitting, nodes))
    return found[0]


def asked(**request: object) -> DeploymentRequest:
    """A request for star/worker."""
    return DeploymentRequest.model_validate({"image": "star/worker"} | request)


def test_what_is_left_out_is_what_the_image_needs(desk: Desk) -> None:
    """Or the site's default; the decision is kept with all its rules."""
    ordered = desk.admitting.admit(asked(), ALICE)
    (machine,) = ordered.machines
    assert (machine.memory, machine.cores, str(machine.network)) == (128 * MIB, 1, "user")
    assert machine.expires == desk.site.clock.at + timedelta(hours=1)
    assert machine.disk == writable_bytes(WORKER) == 64 * MIB
    assert machine.hostname == f"worker-{machine.uuid[:8]}"
    deployment = ordered.deployment
    assert (deployment.owner, deployment.image_id, deployment.title) == (ALICE, WORKER.image_id, WORKER.title)
    assert deployment.decision["accepted"] is True
    assert {"endorsements", "limit-machines"} <= {rule["name"] for rule in deployment.decision["rules"]}
    assert deployment.policy == deployment.decision["policy"]


def test_a_request_is_admitted_as_asked(desk: Desk) -> None:
    """Amounts, names, blanks, what it belongs to."""
    blank = {"size": 512 * MIB, "filesystem": "none"}
    request = asked(count=2, memory=256 * MIB, cores=2, lifetime=600, hostname="wn", network="user", blanks=(blank,))
    cluster = desk.site.store.write(add_cluster, ALICE, *cluster_of("c")).uuid
    ordered = desk.admitting.admit(request, ALICE, part=ClusterMembership(cluster, "worker", held=True))
    assert [machine.hostname for machine in ordered.machines] == ["wn-1", "wn-2"]
    assert {(one.memory, one.cores, one.disk) for one in ordered.machines} == {(256 * MIB, 2, 576 * MIB)}
    assert {(one.role, one.held) for one in ordered.machines} == {("worker", True)}
    assert ordered.deployment.cluster == cluster
    assert ordered.deployment.expires == desk.site.clock.at + timedelta(seconds=600)


def test_an_image_that_nobody_trusted_vouches_for_is_refused(desk: Desk) -> None:
    """With the whole decision, and nothing left behind."""
    before = desk.site.store.read(last_event)
    with pytest.raises(Refused, match="no endorser is trusted for VO rogue") as refused:
        desk.admitting.admit(asked(image="rogue/worker"), ALICE)
    assert refused.value.decision is not None
    assert desk.site.store.read(last_event) == before


def test_a_forged_endorsement_counts_for_nothing(desk: Desk) -> None:
    """One that is another image's."""
    other = manifest(PARTS, version="2.0")
    desk.shelf.add(other, *desk.shelf.endorsements(WORKER.image_id))
    with pytest.raises(Refused):
        desk.admitting.admit(asked(image=other.image_id), ALICE)


def test_what_the_site_blocks_is_refused(desk: Desk) -> None:
    """From that moment on."""
    desk.admitting.admit(asked(), ALICE)
    desk.blocks = BlockList(images=("star/worker",))
    with pytest.raises(Refused, match="block list"):
        desk.admitting.admit(asked(), ALICE)


def test_rules_may_speak_of_who_asks(desk: Desk) -> None:
    """By their whole name, so that nobody is taken for another."""
    mallory = ALICE.model_copy(update={"subject": "mallory"})
    with pytest.raises(Refused, match="no-mallory"):
        desk.admitting.admit(asked(), mallory)
    assert requester_of(LOCAL_OPERATOR).name == "local"
    found = requester_of(ALICE)
    assert (found.name, found.vos, found.roles) == (ALICE.identity, ("star",), ("/star",))
    nobody = Principal(issuer="https://i.example.org", subject="x", means="token")
    assert requester_of(nobody).vos == ()


def test_the_limit_on_one_node_is_a_site_s_for_all_its_nodes(desk: Desk, signed: Signed) -> None:
    """Three on each of two: six have room, seven are refused by the policy, and no node is given more than three."""
    with pytest.raises(Refused, match="machine"):
        desk.admitting.admit(asked(count=7), ALICE)
    nodes = [machine.node for machine in desk.admitting.admit(asked(count=6), ALICE).machines]
    assert sorted(nodes.count(node) for node in desk.nodes) == [3, 3]
    with pytest.raises(NoCapacity):
        desk.admitting.admit(asked(), ALICE)
    assert site_wide_rules(signed.rules, 0).policy.limits.machines == 3
    assert site_wide_rules(signed.rules, 1 << 20).policy.limits.machines == 65536


@pytest.mark.parametrize(
    ("request_", "error", "sentence"),
    [
        ({"image": "worker"}, CatalogMisused, "is not a valid image reference"),
        ({"image": "star/none"}, NotFound, "no image"),
        ({"network": "wlan0"}, ValidationError, "is not a valid network"),
        ({"network": "bridge:"}, ValidationError, "is not a valid network"),
        ({"hostname": "Worker_1"}, Misused, "is not a valid host name"),
        ({"hostname": "x" * 60, "count": 1000}, Misused, "is not a valid host name"),
        ({"hostnames": ("a", "-b"), "count": 2}, Misused, "is not a valid host name"),
        ({"public_keys": ("ssh-rsa nonsense",)}, Misused, "key"),
        ({"user_data": base64.b64encode(b"\xff\xfe").decode()}, UserDataRefused, "user-data"),
        ({"memory": 64 * MIB}, Refused, "memory"),
        ({"cores": 3}, Refused, "limits.cores"),
        ({"memory": 2 * GIB}, Refused, "limits.memory"),
        ({"lifetime": 86400}, Refused, "limits.lifetime"),
        ({"network": "bridge:br0"}, Refused, "bridge:br0"),
        ({"blanks": ({"size": 2 * GIB, "filesystem": "none"},)}, Refused, "limits.blank"),
        ({"user_data": base64.b64encode(b"#cloud-config\n{}\n").decode()}, Refused, "cloud-config"),
        ({"placement_options": PlacementOptions(labels={"gpu": "yes"})}, NoCapacity, "gpu"),
    ],
)
def test_requests_that_are_not_admitted(
    desk: Desk, request_: dict[str, object], error: type[Exception], sentence: str
) -> None:
    """Each with its reason; nothing is left of any."""
    before = desk.site.store.read(last_event)
    with pytest.raises(error, match=sentence):
        desk.admitting.admit(asked(**request_), ALICE, "key")
    assert desk.site.store.read(last_event) == before
    assert desk.admitting.admit(asked(), ALICE, "key").new


def test_quotas_are_weighed_where_they_cannot_be_raced(desk: Desk) -> None:
    """Without any grant nothing is had; the operator is bound by the room alone."""
    desk.quota = Quota(reason="no grant of this site lets alice deploy star/worker@1.0")
    with pytest.raises(OverQuota, match="no grant"):
        desk.admitting.admit(asked(), ALICE)
    tried = desk.admitting.try_out(asked(), ALICE)
    assert (tried.accepted, tried.placed) == (True, False)
    assert tried.placement[0].startswith("no grant")
    desk.quota = UNLIMITED
    assert desk.admitting.admit(asked(), LOCAL_OPERATOR).new


def test_room_to_grow_is_counted_from_the_beginning(desk: Desk) -> None:
    """By policy, quotas and placement; the machine begins smaller, and may be resized up to it."""
    allowed = {"machines": 9, "cores": 3, "memory": "1536MiB", "lifetime": "3h"}
    desk.quota = Quota((QuotaShare("g", validate(QuotaLimits, allowed, "allowance")),))
    request = asked(memory=256 * MIB, max_memory=GIB, max_cores=2)
    machine = desk.admitting.admit(request, ALICE, "grows").machines[0]
    assert (machine.memory, machine.cores) == (256 * MIB, 1)
    assert (machine.max_memory, machine.max_cores) == (GIB, 2)
    assert desk.site.store.read(usage_of, owner=ALICE) == ResourceUsage(1, 2, GIB)
    told = desk.site.store.read(desired_state, machine.node or "").machines[0]
    assert (told.memory, told.max_memory, told.cores, told.max_cores) == (256 * MIB, GIB, 1, 2)
    for most, error in (
        ({"max_cores": 3}, Refused),  # by the policy's limits for each machine
        ({"max_memory": 2 * GIB}, Refused),
        ({"max_cores": 2}, OverQuota),  # 2 are taken of 3
        ({"max_memory": GIB}, OverQuota),
        ({"max_memory": 64 * MIB}, Misused),  # it would begin with 128 MiB
        ({"cores": 2, "max_cores": 1}, Misused),
    ):
        with pytest.raises(error):
            desk.admitting.admit(asked(**most), ALICE)
    desk.quota = UNLIMITED
    desk.admitting.admit(asked(count=3, max_cores=2), ALICE)  # the nodes have 8 cores: 4 are used, and all are promised
    with pytest.raises(NoCapacity):
        desk.admitting.admit(asked(), ALICE)
    assert not desk.admitting.try_out(asked(), ALICE).placed
    grown = lifecycle.resize_machine(machine, GIB, 2)
    assert grown is not None
    with pytest.raises(MachineConflict, match="may have at most 1GiB of memory and 2 cores"):
        lifecycle.resize_machine(grown.machine, None, 3)
    assert not desk.admitting.admit(request, ALICE, "grows").new
    with pytest.raises(Conflict):
        desk.admitting.admit(asked(memory=256 * MIB, max_memory=GIB), ALICE, "grows")


def test_keys_of_before_there_was_room_to_grow_mean_what_they_meant(desk: Desk) -> None:
    """What was remembered of a request then, it is still."""
    request = asked(count=2, hostname="wn")
    values = request.model_dump(mode="json")
    assert [values.pop(name) for name in ("max_memory", "max_cores", "description")] == [None] * 3
    values["wishes"] = values.pop("placement_options")
    then = hashlib.sha256(canonical([values, "", ""])).hexdigest()
    first = desk.admitting.admit(request, ALICE, "k1")
    with desk.site.store.database.reading() as connection:
        assert store_machines.find_order(connection, ALICE.identity, "k1") == (then, first.deployment.uuid)


def test_the_same_key_has_the_same_answer_even_when_the_image_is_refused_by_now(desk: Desk) -> None:
    """And another request under it is a conflict."""
    first = desk.admitting.admit(asked(count=2), ALICE, "k1")
    desk.blocks = BlockList(images=("star/worker",))
    again = desk.admitting.admit(asked(count=2), ALICE, "k1")
    assert (again.new, again.deployment, again.machines) == (False, first.deployment, first.machines)
    with pytest.raises(Conflict):
        desk.admitting.admit(asked(count=1), ALICE, "k1")
    with pytest.raises(Refused):
        desk.admitting.admit(asked(count=2), BOB, "k1")


def test_a_dry_run_says_all_and_keeps_nothing(desk: Desk) -> None:
    """Decision, placement, bytes to fetch; no estimate where nothing is known."""
    cached = tuple(str(address) for address in PARTS[:2])
    desk.site.store.write(store_report, desk.nodes[1], capable(cached=cached))
    before = desk.site.store.read(last_event)
    tried = desk.admitting.try_out(asked(), ALICE)
    assert tried.accepted
    assert tried.placed
    assert tried.decision["accepted"] is True
    assert tried.fetch == {desk.nodes[1]: EVERYTHING - 5 * MIB}
    assert any("n2" in sentence for sentence in tried.placement)
    assert tried.seconds is None
    assert desk.site.store.read(last_event) == before
    assert desk.site.store.read(usage_of) == ResourceUsage()


def test_a_dry_run_of_what_is_refused_says_why(desk: Desk) -> None:
    """By the policy, or for want of room; neither is an error."""
    refused = desk.admitting.try_out(asked(image="rogue/worker"), ALICE)
    assert not refused.accepted
    assert any(not rule["passed"] for rule in refused.decision["rules"])
    for node in desk.nodes:
        desk.site.store.write(set_node_state, node, NodeState.DRAINING, "")
    full = desk.admitting.try_out(asked(), ALICE)
    assert (full.accepted, full.placed, full.fetch) == (True, False, {})
    assert "there is capacity for 0 of 1 machine" in full.placement[0]


def test_an_estimate_comes_from_what_earlier_machines_took(desk: Desk) -> None:
    """On the same node: eight seconds with all cached, and a rate for what is fetched."""
    site, node = desk.site, desk.nodes[0]
    site.store.write(set_node_state, desk.nodes[1], NodeState.DRAINING, "")
    cold = desk.admitting.admit(asked(), ALICE).machines[0]
    site.clock.advance(seconds=21)
    site.report(node, observed(cold, MachineState.RUNNING, from_network=EVERYTHING))
    warm = desk.admitting.admit(asked(), ALICE).machines[0]
    site.clock.advance(seconds=8)
    site.report(
        node, observed(cold, MachineState.RUNNING, from_network=EVERYTHING), observed(warm, MachineState.RUNNING)
    )
    assert desk.admitting.try_out(asked(), ALICE).seconds == 21.0
    site.store.write(
        store_report,
        node,
        capable(revision=site.store.read(revision_of, node), cached=tuple(map(str, PARTS)), complete=False),
    )
    assert desk.admitting.try_out(asked(), ALICE).seconds == 8.0


@pytest.mark.parametrize(
    ("name", "base"),
    [("worker", "worker"), ("STAR_Worker.x86", "star-worker-x86"), ("...", "machine"), ("a" * 60, "a" * 40)],
)
def test_host_names_begin_with_the_images(name: str, base: str) -> None:
    """As far as host names go."""
    assert hostname_base(name) == base


def test_machines_are_placed_as_the_requesters_account_demands(desk: Desk) -> None:
    """At admission as in a dry run: an account that may not be used is not used."""

    def without_second_node(place: Placer, *_request: object) -> Placer:
        return lambda rooms, ask: place([room for room in rooms if room.uuid != desk.nodes[1]], ask)

    admitting = replace(desk.admitting, burst=without_second_node)
    assert admitting.try_out(asked(count=3), ALICE).placed
    assert not admitting.try_out(asked(count=4), ALICE).placed
    assert {machine.node for machine in admitting.admit(asked(count=3), ALICE).machines} == {desk.nodes[0]}
    with pytest.raises(NoCapacity):
        admitting.admit(asked(), ALICE)
