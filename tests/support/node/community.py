"""Fixtures of the deployer's tests: a catalog with images, and nodes that boot them."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.image.bundle import Bundle
from signer.openpgp.keyring import Keyring
from tests.support.catalog.service_process import Service, Vo
from tests.support.node.boot_sector_guest import boot_sector_image
from tests.support.node.service_process import NodeProcess, policy, wait_for


@dataclass(frozen=True)
class Community:
    """A catalog with star/hello@1.0 and 2.0, and rogue/hello@1.0 by somebody whom no site trusts."""

    service: Service
    star: Vo
    rogue: Vo
    hello: Bundle


@pytest.fixture(scope="session")
def community() -> Iterator[Community]:
    """Made once: publishing takes a second, and no test changes what is published."""
    place = Path(tempfile.mkdtemp(prefix="pc-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        keyring = Keyring(place / "keys")
        star = Vo(keyring, "star", keyring.generate("Star <star@example.org>"))
        rogue = Vo(keyring, "rogue", keyring.generate("Rogue <rogue@example.org>"))
        service = stack.enter_context(Service(place))
        service.register(star.anchor(), rogue.anchor())
        hello = star.endorse(boot_sector_image(place / "hello"))
        second = star.endorse(boot_sector_image(place / "hello2", version="2.0", seed=100))
        forged = rogue.endorse(boot_sector_image(place / "forged", vo="rogue", seed=200))
        with service.client() as client:
            for bundle in (hello, second, forged):
                transfer.publish_image(client, bundle)
        yield Community(service, star, rogue, hello)


@pytest.fixture(scope="session")
def warm(community: Community, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What libvirt finds out about QEMU, in four seconds; found out once for all workers of a run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "warm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "warm").exists():
            with NodeProcess(community.service.url, "") as node:
                wait_for(lambda: list((node.libvirt / "cache" / "qemu" / "capabilities").glob("*.xml")), 60)
                node.stop()
                shutil.copytree(node.libvirt / "cache", shared / "warm")
    return shared / "warm"


@pytest.fixture
def make_node(community: Community, warm: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts nodes that trust star; all of them, and their guests, end with the test."""
    with ExitStack() as stack:

        def make(policy_text: str | None = None, **deploy: object) -> NodeProcess:
            text = policy(community.star.anchor()) if policy_text is None else policy_text
            return stack.enter_context(NodeProcess(community.service.url, text, warm=warm, **deploy))

        yield make


@pytest.fixture
def node(make_node: Callable[..., NodeProcess]) -> NodeProcess:
    """A running node that trusts star."""
    return make_node()


@pytest.fixture(scope="module")
def quiet(community: Community, warm: Path) -> Iterator[NodeProcess]:
    """A node that trusts star, shared by the tests of a module that leave nothing on it."""
    with NodeProcess(community.service.url, policy(community.star.anchor()), warm=warm) as node:
        yield node
