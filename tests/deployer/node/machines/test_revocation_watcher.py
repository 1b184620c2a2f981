"""A node that looks for revocations: what it keeps, and what it does to machines that run."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog.client import transfer
from catalog.errors import Unavailable
from catalog.image.bundle import Bundle
from deployer.errors import PolicyUnusable, Refused
from deployer.machine.state import MachineState
from deployer.node.machines.revocation_watcher import RevocationWatcher
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.policy.revocations import RevocationStore
from deployer.records.machine_store import MachineStore
from signer.statements.revocation import RevokedObject
from signer.verification.revocations import revoke
from signer.verification.signers import KeySigner
from tests.support.catalog.service_process import now
from tests.support.commands import partita
from tests.support.node.boot_sector_guest import SAID, boot_sector_image
from tests.support.node.community import Community
from tests.support.node.policy_site import ADMIN, Site
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.node.withdrawn_signatures import by_officer, rules


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Ann and Bob may endorse, Kim is the security officer."""
    return Site(tmp_path_factory.mktemp("site"))


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
    pair = revoke(signer, RevokedObject("image", title, digest=digest), "star", now(), reason="compromised", role=ADMIN)
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
    wait_for(lambda: "runs a revoked image" in node.log.read_text(), 60)
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
    listed = partita("--set", f"deploy.socket={node.socket}", "site", "exposure", "star/hello")
    listed.check_returncode()
    assert machine.name in listed.stdout
    blocked.write_text('images = ["star/hello@1.*"]\n')
    wait_for(lambda: node.state(machine.uuid) is MachineState.ENDED, 60)
    with pytest.raises(Refused, match="block list"):
        node.deploy()
    blocked.write_text("images = [")
    with pytest.raises(PolicyUnusable, match="nothing is accepted"):
        node.deploy("star/hello@2.0")
