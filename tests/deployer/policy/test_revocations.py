"""What is withdrawn stops: at decisions, on machines that run, with and without a network, as the policy says."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog.client import transfer
from catalog.errors import Unavailable
from catalog.image.bundle import Bundle
from deployer.errors import PolicyUnusable, Refused
from deployer.machine.spec import MachineState
from deployer.node.machines.exposure import BootFacts, exposure_reason
from deployer.node.machines.revocation_watcher import RevocationWatcher
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.policy.evaluation import EvaluationInput, check_endorsements, effective_revocations, evaluate
from deployer.policy.model import Policy
from deployer.policy.revocations import BlockList, RevocationState, RevocationStore
from deployer.policy.store import RuleSet
from deployer.records.machine_store import MachineStore
from signer.errors import DocumentError
from signer.statements.revocation import SECURITY_OFFICER
from signer.verification.revocations import revoke
from signer.verification.signers import KeySigner
from tests.deployer.policy.test_evaluation import ADMIN, IMAGE, ORDER, Site, failing
from tests.support.catalog.service_process import now
from tests.support.grid_ca import DAY
from tests.support.node.boot_sector_guest import SAID, boot_sector_image
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for

OFFICER_AND_ADMIN = """
[endorsements]
threshold = 2
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Ann and Bob may endorse, Kim is the security officer."""
    return Site(tmp_path_factory.mktemp("site"))


def rules(site: Site, said: str = "") -> RuleSet:
    anchors = (site.ann.anchor(), site.bob.anchor(), site.kim.anchor("star", SECURITY_OFFICER))
    found: Policy = site.policy(said, *anchors)
    return RuleSet(found, digest=found.digest)


def case(site: Site, *pairs: Any, **block: Any) -> EvaluationInput:
    signed = [site.image(site.ann), site.image(site.bob)]
    return EvaluationInput(IMAGE, signed, ORDER, withdrawn=RevocationState(pairs, BlockList(**block)))


def by_officer(site: Site, **more: Any) -> Any:
    return revoke(
        site.kim, "image", IMAGE.title, "star", site.now, **({"reason": "compromised", "digest": IMAGE.image_id} | more)
    )


def anns_key(site: Site) -> Any:
    return revoke(site.kim, "key", "x509:/DC=org/CN=Ann", "star", site.now, reason="compromised")


ANN, BOB = "x509:/DC=org/CN=Ann", "x509:/DC=org/CN=Bob O'Neill"
TABLE: list[tuple[str, Callable[[Site], EvaluationInput], str, set[str]]] = [
    ("nothing", lambda s: case(s), "", set()),
    ("the image, by an officer", lambda s: case(s, by_officer(s)), "", {"not-revoked", "endorsements"}),
    ("one of two keys, where one is enough", lambda s: case(s, anns_key(s)), "", set()),
    (
        "one of two keys, where two must",
        lambda s: case(s, anns_key(s)),
        "[endorsements]\nthreshold = 2",
        {"endorsements"},
    ),
    ("the image's ID is blocked", lambda s: case(s, images=(IMAGE.image_id,)), "", {"not-blocked"}),
    ("its name is blocked", lambda s: case(s, images=("star/*@1.*",)), "", {"not-blocked"}),
    ("another name is blocked", lambda s: case(s, images=("star/other",)), "", set()),
    ("its VO is blocked", lambda s: case(s, vos=("st*",)), "", {"not-blocked"}),
    ("one key is blocked", lambda s: case(s, keys=(ANN,)), "", set()),
    ("both keys are blocked", lambda s: case(s, keys=(ANN, BOB)), "", {"endorsements"}),
]


def test_decisions(site: Site) -> None:
    wrong = []
    for what, make, said, expected in TABLE:
        decision = evaluate(rules(site, said), make(site), site.now).decision
        if failing(decision) != expected:
            wrong.append((what, decision.text()))
    assert not wrong


def test_a_blocked_endorsement_does_not_count(site: Site) -> None:
    mine = case(site)
    digest = check_endorsements(rules(site), mine, site.now)[0].digest
    checks = BlockList(endorsements=(f"sha256:{digest}",)).void(check_endorsements(rules(site), mine, site.now))
    assert [check.counts for check in checks] == [False, True]
    assert checks[0].reason == f"sha256:{digest} stands in the site's block list."


def test_which_running_machines_are_affected(site: Site, tmp_path: Path) -> None:
    two = "[endorsements]\nthreshold = 2"
    booted = site.now + timedelta(hours=1)
    facts = BootFacts(IMAGE, tuple(check_endorsements(rules(site), case(site), site.now)))
    facts.write(tmp_path)
    kept = BootFacts.read(tmp_path)
    assert kept is not None
    assert (kept.manifest, len(kept.checks)) == (IMAGE, 2)
    retired_before = by_officer(site, reason="retired", since=booted - DAY)
    retired_after = by_officer(site, reason="retired", since=booted + DAY)
    table: list[tuple[str, str, tuple[Any, ...], dict[str, Any], str]] = [
        ("nothing", "", (), {}, ""),
        ("the image", "", (by_officer(site),), {}, "was revoked as compromised"),
        ("retired before it was booted", "", (retired_before,), {}, "was revoked as retired"),
        ("retired after it was booted", "", (retired_after,), {}, ""),
        ("one key of two", "", (anns_key(site),), {}, ""),
        ("one key where both must", two, (anns_key(site),), {}, "1 of 2 endorsers"),
        ("blocked", "", (), {"images": (IMAGE.image_id,)}, "block list"),
        ("keys blocked", "", (), {"keys": (ANN, BOB)}, "0 of 1 endorsers"),
        ("the policy asks for more than it did", "[endorsements]\nthreshold = 3", (anns_key(site),), {}, ""),
    ]
    wrong = []
    for what, said, pairs, block, expected in table:
        mine = rules(site, said)
        held = effective_revocations(mine.policy, RevocationState(pairs), site.now)
        reason = exposure_reason(mine.policy, kept, booted, held, BlockList(**block))
        if (expected not in reason) if expected else reason:
            wrong.append((what, reason))
    assert not wrong
    # What has expired since was good when it counted.
    assert exposure_reason(rules(site).policy, kept, booted, (), BlockList()) == ""


@pytest.mark.parametrize("target", [IMAGE.image_id, IMAGE.title, "star/worker", ANN, "/DC=org/CN=Ann"])
def test_machines_are_found_by_image_and_by_key(site: Site, target: str) -> None:
    facts = BootFacts(IMAGE, tuple(check_endorsements(rules(site), case(site), site.now)))
    assert facts.names(target)
    assert not facts.names(target + "x")


def test_what_was_seen_is_never_forgotten(site: Site, tmp_path: Path) -> None:
    store, pair, other = RevocationStore(tmp_path), by_officer(site), anns_key(site)
    assert [store.add([pair, pair]), store.add([pair]), store.add([other])] == [1, 0, 1]
    assert store.add([]) == 0
    assert RevocationStore(tmp_path).pairs() == (pair, other)
    (tmp_path / "revocations.json").write_bytes(b"{")
    with pytest.raises(DocumentError):
        RevocationStore(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("images = ['nonsense']", "image ID"),
        ("keys = ['Ann']", "is no key"),
        ("keys = ['openpgp:abc']", "is no key"),
        ("endorsements = ['x']", "endorsements"),
        ("hosts = ['x']", "not known here"),
        ("images = [", "is not TOML"),
    ],
)
def test_a_block_list_that_is_not_understood_blocks_everything(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "blocked.toml"
    assert BlockList.load(file) == BlockList()
    file.write_text(text)
    with pytest.raises(PolicyUnusable, match=says):
        BlockList.load(file)


class Listing:
    """A catalog as far as revocations go: it lists what it was given, or cannot be reached."""

    def __init__(self) -> None:
        self.pairs: list[Any] = []
        self.reached = True

    def revocations(self) -> list[Any]:
        """What is listed now."""
        if not self.reached:
            raise Unavailable("the catalog does not answer")
        return list(self.pairs)


class NoLeases:
    """A cache in which nobody holds anything."""

    def release(self, holder: str) -> None:
        """Nothing to give back."""

    def holders(self) -> list[str]:
        """Nobody."""
        return []


def test_only_what_counts_is_kept_and_withholding_brings_nothing_back(site: Site, tmp_path: Path) -> None:
    keeper = MachineSupervisor(MachineStore(tmp_path / "machines"), NoLeases(), lambda: site.now, timedelta(seconds=1))
    listing, good = Listing(), by_officer(site)
    watcher = RevocationWatcher(
        listing,
        tmp_path,
        tmp_path / "blocked.toml",
        lambda: rules(site),
        keeper,
        lambda *_: None,
        lambda: site.now,
    )
    junk = [(good[0], bytes([number])) for number in range(20)] + [site.image(site.ann)]
    listing.pairs = [*junk, good, *junk]
    assert watcher.current().pairs == (good,)
    listing.pairs = []
    assert watcher.current().pairs == (good,)
    listing.reached = False
    with pytest.raises(Unavailable):  # nothing new starts by what may be old
        watcher.current()
    watcher.look()
    assert watcher.known().pairs == (good,)
    assert RevocationStore(tmp_path).pairs() == (good,)


def doomed(community: Community, place: Path, version: str) -> Bundle:
    """One more image in the community's catalog, for one test to revoke."""
    image = community.star.endorse(boot_sector_image(place / version, version=version, seed=300))
    with community.service.client() as client:
        transfer.publish_image(client, image)
    return image


def withdraw_it(community: Community, image: Bundle) -> None:
    signer = KeySigner(community.star.keyring, community.star.fingerprint)
    title, digest = image.manifest.title, image.manifest.image_id
    pair = revoke(signer, "image", title, "star", now(), reason="compromised", role=ADMIN, digest=digest)
    with community.service.client() as client:
        client.revoke(*pair)


ENDS = [
    ("notify", MachineState.RUNNING),
    ("pause", MachineState.PAUSED),
    ("drain", MachineState.ENDED),
    ("destroy", MachineState.ENDED),
]


@pytest.mark.guest
@pytest.mark.parametrize(("action", "expected"), ENDS)
def test_a_revocation_reaches_a_running_machine(
    community: Community, make_node: Callable[..., NodeProcess], tmp_path: Path, action: str, expected: MachineState
) -> None:
    text = policy(community.star.anchor()) + f'\n[revocations]\nrunning = "{action}"\n'
    node = make_node(text, revocations_every="1s", grace="1s", blocked=str(tmp_path / "blocked.toml"))
    image = doomed(community, tmp_path, f"7.{action}")
    other, machine = node.deploy().machines[0], node.deploy(image.manifest.title).machines[0]
    node.said(machine.uuid, SAID[0], 60)
    with node.client() as client:
        assert [one.affected for one in client.exposure(image.manifest.title).machines] == [False]
    withdraw_it(community, image)
    wait_for(lambda: "runs what was withdrawn" in node.log.read_text(), 60)
    wait_for(lambda: node.state(machine.uuid) is expected, 60)
    assert node.state(other.uuid) is MachineState.RUNNING
    with pytest.raises(Refused, match="endorsers vouch"):
        node.deploy(image.manifest.title)
    if expected is not MachineState.ENDED:
        with node.client() as client:
            (found,) = client.exposure(f"openpgp:{community.star.fingerprint}").machines[1:]
            assert (found.uuid, found.affected) == (machine.uuid, True)
            assert "revoked as compromised" in found.reason
    else:
        wait_for(lambda: len(node.guests()) == 1, 60)


@pytest.mark.guest
def test_the_block_list_works_without_a_network(
    community: Community, make_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked.toml"
    text = policy(community.star.anchor()) + '\n[revocations]\nrunning = "destroy"\n'
    node = make_node(
        text,
        revocations_every="1s",
        blocked=str(blocked),
    )
    machine = node.deploy().machines[0]
    node.said(machine.uuid, SAID[0], 60)
    command = [
        sys.executable,
        "-m",
        "partita",
        "--set",
        f"deploy.socket={node.socket}",
        "site",
        "exposure",
        "star/hello",
    ]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert machine.name in listed
    blocked.write_text('images = ["star/hello@1.*"]\n')
    wait_for(lambda: node.state(machine.uuid) is MachineState.ENDED, 60)
    with pytest.raises(Refused, match="block list"):
        node.deploy()
    blocked.write_text("images = [")
    with pytest.raises(PolicyUnusable, match="nothing is accepted"):
        node.deploy("star/hello@2.0")
