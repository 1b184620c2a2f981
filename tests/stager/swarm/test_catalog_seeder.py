"""The catalog's seeding peer as a process, with everybody who may come: a stock client, a node with the right, one without."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.client.credential_file import read_credential
from catalog.content.indexing import index_file
from catalog.errors import NotFound
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.ranges import ByteRange
from signer.openpgp.keyring import Keyring
from stager.content.piece_map import PieceMap
from stager.errors import SourceLacks, SourceUnavailable
from stager.fetch.resume import find_leaves, read_boot_id
from stager.fetch.sources import ContentSource, HttpSource
from stager.swarm.fetch import SwarmFetch, SwarmFile
from stager.swarm.grants import CatalogCredentialsProvider
from stager.swarm.swarm import Swarm, SwarmOptions
from stager.swarm.tracker_client import TrackerClient
from tests.support import factories
from tests.support.catalog.service_process import Service, Vo
from tests.support.commands import partita

SIZE = 17 << 20

STOCK = """
import sys, time
from pathlib import Path
import libtorrent as lt
# All as it comes, but that the tracker of this test is on loopback under /v1, which the client would think an attack.
session = lt.session({"listen_interfaces": "127.0.0.1:0", "ssrf_mitigation": False, "enable_dht": False, "enable_lsd": False})
params = lt.load_torrent_file(sys.argv[1])
params.save_path = sys.argv[2]
handle = session.add_torrent(params)
deadline = time.monotonic() + 120
while not handle.status().is_seeding and time.monotonic() < deadline:
    time.sleep(0.1)
session.pause()
print(handle.status().is_seeding, handle.status().total_payload_download, flush=True)
"""


class World:
    """A catalog, its seeding peer, a public and a restricted content."""

    def __init__(self, service: Service, root: Path, public: Bundle, secret: Bundle) -> None:
        self.service, self.root, self.public, self.secret = service, root, public, secret
        self.port = 0

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return partita(*self.settings(), *arguments)

    def settings(self) -> list[str]:
        sets = [f"catalog.directory={self.service.directory}", f"catalog.url={self.service.url}"]
        return [word for one in sets for word in ("--set", one)]

    def credential(self, site: str) -> str:
        return read_credential(self.root / f"{site}.credential")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("seeding")
    keyring = Keyring(root / "keys")
    star = Vo(keyring, "star", keyring.generate("star <star@example.org>"))
    public = star.endorse(factories.bundle(root / "public", partitions=1, size=SIZE, seed=3))
    secret = star.endorse(factories.bundle(root / "secret", partitions=1, size=SIZE, seed=4, name="secret"))
    (root / "service").mkdir()
    with Service(root / "service") as service:
        service.register(star.anchor())
        made = World(service, root, public, secret)
        for site in ("lyon", "tum"):
            done = made.run("catalog", "site", "register", site, "-o", str(root / f"{site}.credential"))
            assert done.returncode == 0, done.stderr
        assert made.run("image", "restrict", "star/secret", "--site", "lyon").returncode == 0
        with service.client() as client:
            transfer.publish_image(client, public)
        seeding = subprocess.Popen(
            [sys.executable, "-m", "partita", *made.settings(), "catalog", "seed", "--listen", "127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE,
        )
        try:
            assert seeding.stdout is not None
            told = json.loads(b"".join(iter(seeding.stdout.readline, b"}\n")) + b"}")
            assert told["contents"] == 2
            made.port = told["port"]
            with service.client() as client:
                transfer.publish_image(client, secret)  # while it runs
            yield made
        finally:
            seeding.terminate()
            assert seeding.wait(60) == 0
            seeding.stdout.close() if seeding.stdout else None


def content(bundle: Bundle) -> Address:
    return max(bundle.manifest.contents(), key=lambda address: address.size)


@pytest.mark.slow
def test_a_stock_client_needs_the_torrent_file_and_nothing_else(world: World, tmp_path: Path) -> None:
    torrent = tmp_path / "part1.torrent"
    made = world.run("image", "torrent", "star/worker@1.0", "part1", "-o", str(torrent), "--json")
    assert made.returncode == 0, made.stderr
    address = content(world.public)
    assert json.loads(made.stdout)["address"] == str(address)
    done = subprocess.run([sys.executable, "-c", STOCK, torrent, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.split()[0] == "True", done.stdout + done.stderr
    assert (tmp_path / address.root.hex()).read_bytes() == world.public.content(address).read_bytes()


@pytest.mark.parametrize(
    ("what", "arguments", "said"),
    [
        ("a partition that is not there", ["star/worker", "nothing"], "no partition with content called 'nothing'"),
        ("a blank", ["star/worker", "scratch"], "no partition"),
        ("an image that strangers do not see", ["star/secret", "part1"], "no image star/secret"),
    ],
)
def test_torrents_are_of_public_partitions(
    world: World, tmp_path: Path, what: str, arguments: list[str], said: str
) -> None:
    done = world.run("image", "torrent", *arguments, "-o", str(tmp_path / "x.torrent"))
    assert done.returncode != 0
    assert said in done.stderr
    assert not (tmp_path / "x.torrent").exists()


def test_not_even_who_may_read_it_gets_a_torrent_of_a_restricted_partition(world: World, tmp_path: Path) -> None:
    credential = f"catalog.credential={world.root / 'lyon.credential'}"
    done = world.run("--set", credential, "image", "torrent", "star/secret", "part1", "-o", str(tmp_path / "x.torrent"))
    assert done.returncode == 3
    assert "is restricted" in done.stderr
    assert not (tmp_path / "x.torrent").exists()


def test_a_node_with_the_right_gets_the_restricted_content_over_tls(world: World, tmp_path: Path) -> None:
    """From the seed alone: its own HTTP is not asked."""
    address = content(world.secret)

    class Nothing(ContentSource):
        def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
            raise SourceUnavailable(f"{ranges} of {address} is not asked for here")
            yield b""

    with CatalogClient(world.service.url, credential=world.credential("lyon")) as client:
        passes = CatalogCredentialsProvider(client.grant, "worker-1")
        _published(client, address)
        guide = PieceMap.of(address, client.accelerator(address, "layer"))
        with _tracker(world, passes) as tracker, _swarm(tracker, passes) as swarm:
            fetching = _fetching(swarm, None, Nothing(), guide, tmp_path / "in")
            brought = fetching.run()
            assert swarm.port_for(swarm.torrents[0]) == swarm.tls_port
    assert brought.from_peers >= SIZE * 3 // 4 - (1 << 20)
    assert brought.from_origin == 0
    assert (tmp_path / "in").read_bytes() == world.secret.content(address).read_bytes()


def test_a_node_without_the_right_gets_nothing_on_any_way(world: World, tmp_path: Path) -> None:
    """It knows the address, and so the info-hash of the public swarm that there is not, and where the seed listens."""
    address = content(world.secret)
    measured = world.secret.content(address)
    with CatalogClient(world.service.url, credential=world.credential("tum")) as client:
        with pytest.raises(NotFound):
            client.accelerator(address, "layer")
        passes = CatalogCredentialsProvider(client.grant, "worker-2")
        guide = PieceMap.of(address, index_file(measured).layer)
        with _tracker(world, passes) as tracker, _swarm(tracker, passes) as swarm:
            fetching = _fetching(swarm, tracker, HttpSource(client), guide, tmp_path / "in", patience=6.0)
            with pytest.raises((SourceUnavailable, SourceLacks)):
                fetching.run()
            assert fetching.result.from_peers == fetching.result.from_origin == 0
    assert not any((tmp_path / "in").read_bytes())


def _published(client: CatalogClient, address: Address) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            client.grant(address, "probe", None)
        except NotFound:
            time.sleep(0.1)
        except Exception:  # noqa: BLE001 - it is there, and wants a certificate request
            return


def _tracker(world: World, passes: CatalogCredentialsProvider) -> TrackerClient:
    return TrackerClient(
        world.service.url + "/v1",
        peer_id=random.randbytes(20),
        credentials=passes,
    )


def _swarm(tracker: TrackerClient, passes: CatalogCredentialsProvider) -> Swarm:
    return Swarm(tracker, SwarmOptions(listen="127.0.0.1:0"), boot=read_boot_id(), credentials=passes)


def _fetching(
    swarm: Swarm,
    tracker: TrackerClient | None,
    source: object,
    guide: PieceMap,
    path: Path,
    *,
    patience: float = 60.0,
) -> SwarmFetch:
    return SwarmFetch(
        swarm,
        tracker,
        source,  # type: ignore[arg-type]
        SwarmFile(guide, path, find_leaves(guide, path, None, read_boot_id())),
        rng=random.Random(1),
        patience=patience,
    )
