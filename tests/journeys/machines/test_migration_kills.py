"""Machines that move while site and nodes are killed, at every step: one emulator at the most, nothing lost, the count goes on."""

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.client import transfer
from signer.openpgp.keyring import Keyring
from tests.journeys.machines.test_migration import Make, Member, ends, movers
from tests.support.catalog.service_process import Service, Vo
from tests.support.node.boot_sector_guest import COUNTING_CODE, boot_sector_image
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, wait_for
from tests.support.site.service_process import PATIENCE, SiteProcess

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(2400)]

SETTLES = 240.0
"""Seconds within which a move has come to its end, whatever was killed."""


@pytest.fixture(scope="session")
def community() -> Iterator[Community]:
    """One of its own, whose hello counts."""
    place = Path(tempfile.mkdtemp(prefix="pc-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        keyring = Keyring(place / "keys")
        star = Vo(keyring, "star", keyring.generate("Star <star@example.org>"))
        service = stack.enter_context(Service(place))
        service.register(star.anchor())
        counter = star.endorse(boot_sector_image(place / "hello", boot_code=COUNTING_CODE))
        with service.client() as client:
            transfer.publish_image(client, counter)
        yield Community(service, star, star, counter)


@dataclass
class Scene:
    """A machine that is on its way from one node to another."""

    site: SiteProcess
    source: NodeProcess
    target: NodeProcess
    uuid: str

    @property
    def offered(self) -> bool:
        """The source has locked and described it."""
        return (self.source.machines / self.uuid / "offer.json").exists()

    @property
    def comes(self) -> bool:
        """The target has begun to fetch it."""
        return any((self.target.directory / "n" / "incoming").glob(f"{self.uuid}.*"))

    @property
    def here(self) -> bool:
        """The target puts it together."""
        return (self.target.machines / self.uuid).exists()

    @property
    def lent(self) -> bool:
        """The target has all of it, and waits for the site's word."""
        record = self.target.machines / self.uuid / "machine.json"
        return record.exists() and b'"state":"suspended"' in record.read_bytes()

    @property
    def runs(self) -> bool:
        """It runs at the target."""
        return bool(self.target.guests())


Moment = Callable[[Scene], object]
STEPS: list[tuple[str, str, Moment]] = [
    ("the source before it hears of it", "source", lambda _: True),
    ("the source once it has offered it", "source", lambda scene: scene.offered),
    ("the target before it hears of it", "target", lambda _: True),
    ("the target while it fetches", "target", lambda scene: scene.comes),
    ("the source while the target fetches", "source", lambda scene: scene.comes),
    ("the target while it puts it together", "target", lambda scene: scene.here),
    ("the target once it has all", "target", lambda scene: scene.lent),
    ("the source once the target has all", "source", lambda scene: scene.lent),
    ("the site once the target has all", "site", lambda scene: scene.lent),
    ("the site while the target fetches", "site", lambda scene: scene.comes),
    ("the target once it runs there", "target", lambda scene: scene.runs),
    ("the source once it runs there", "source", lambda scene: scene.runs),
    ("the site once it runs there", "site", lambda scene: scene.runs),
]


def counts(node: NodeProcess, uuid: str) -> list[int]:
    """What a guest has counted so far; its console came with it."""
    return [int(one, 16) for one in re.findall(rb"(?m)^([0-9a-f]{8})\r?$", node.console(uuid))]


def alone(nodes: Sequence[NodeProcess]) -> None:
    """Never two of it, seen from outside."""
    assert sum(len(node.guests()) for node in nodes) <= 1


def test_a_machine_that_moves_is_neither_doubled_nor_lost_whatever_is_killed(
    make_site: Make, make_member: Member, community: Community
) -> None:
    """Moved back and forth, with a kill at each step of the way; its count goes on without a gap, and never begins anew."""
    site, *nodes = movers(make_site, make_member, community)
    uuid = site.deploy().machines[0].uuid
    ends(nodes, site, uuid)
    for what, victim, moment in STEPS:
        source, target = ends(nodes, site, uuid)
        wait_for(lambda node=source: len(counts(node, uuid)) > 2, PATIENCE)
        with site.client() as client:
            client.do(uuid, "suspend")
        site.wait_state(uuid, "suspended")
        before = counts(source, uuid)
        with site.client() as client:
            client.do(uuid, "reactivate", what, elsewhere=True)
        scene = Scene(site, source, target, uuid)
        until = time.monotonic() + PATIENCE
        while not moment(scene) and time.monotonic() < until:
            time.sleep(0.005)
        dies = {"site": site, "source": source, "target": target}[victim]
        dies.kill()
        alone(nodes)
        dies.start()
        while not (found := site.machine(uuid)).state.final and not (
            found.state.value == "running" and found.migration is None
        ):
            alone(nodes)
            assert time.monotonic() < until + SETTLES, (what, found, site.log.read_text()[-2000:])
            time.sleep(0.1)
        assert found.state.value == "running", (what, found)
        wait_for(lambda node=target, least=len(before): len(counts(node, uuid)) > least + 2, PATIENCE)
        after = counts(target, uuid)
        assert after == list(range(1, len(after) + 1)), what  # from the first tick on, without a gap
        assert not (source.machines / uuid).exists()
        assert (source.guests(), len(target.guests())) == ([], 1), what
        assert not list((target.directory / "n" / "incoming").iterdir())
