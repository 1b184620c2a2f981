"""Whole swarms: every node a host with an address and a link of its own, real processes in each, and what goes wrong."""

import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from catalog.content.indexing import index_file
from catalog.swarm.announce_keys import AnnounceKeys, KeyHolder
from catalog.swarm.torrent import short_hash, torrent_file
from tests.support.forked_process import ForkedProcess
from tests.support.network_namespaces import Host, Network, inside, unavailable
from tests.support.stager import swarm_node, swarm_origin
from tests.support.stager.swarm_origin import SECRET

MIB = 1 << 20
PATIENCE = 100.0

pytestmark = pytest.mark.timeout(240)
serial = pytest.mark.serial
"""Who asserts on how many bytes went where in a time needs a core for itself."""


class Node:
    """A node's process on its host, and what it says."""

    def __init__(self, host: Host, log: Path, job: dict[str, Any]) -> None:
        self.host, self.path = host, Path(job["path"])
        self.process = ForkedProcess(host, log, swarm_node.main, json.dumps(job))
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self._said.put(json.loads(line))
        self._said.put({"ended": self.process.wait()})

    def hears(self) -> dict[str, Any]:
        """What it says next."""
        return self._said.get(timeout=PATIENCE)

    def ready(self) -> "Node":
        """Wait until it takes part."""
        said = self.hears()
        assert "ready" in said, (said, self.process.log.read_text())
        self.port = said["ready"]
        return self

    def done(self) -> dict[str, Any]:
        """Wait until it has everything; where the bytes came from."""
        said = self.hears()
        assert "done" in said, (said, self.process.log.read_text())
        return dict(said["brought"])

    def progress(self, size: int) -> float:
        """The part of the content that is on its disk."""
        return self.path.stat().st_blocks * 512 / size if self.path.exists() else 0.0

    def reaches(self, part: float, size: int) -> None:
        """Wait until that part of the content is on its disk."""
        deadline = time.monotonic() + PATIENCE
        while self.progress(size) < part:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class World:
    """A network with an origin that has one content."""

    def __init__(self, network: Network, directory: Path, size: int, mbit: float | None, name: str = "content") -> None:
        self.network, self.directory, self.size, self.mbit = network, directory, size, mbit
        self.content = directory / name
        self.data = os.urandom(size)
        self.content.write_bytes(self.data)
        self.measured = index_file(self.content)
        self.address = self.measured.address
        (directory / "layer").write_bytes(self.measured.layer)
        self.host = network.host("origin", mbit)
        self.url = f"http://{self.host.ip}:7070"
        self.origin = self._serve()

    def _serve(self) -> ForkedProcess:
        ready, log = self.directory / "ready", self.directory / "origin.log"
        arguments = (f"{self.host.ip}:7070", str(ready), str(self.content))
        process = ForkedProcess(self.host, log, swarm_origin.main, *arguments)
        deadline = time.monotonic() + PATIENCE
        while not ready.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    def node(self, name: str, *, host: Host | None = None, **job: Any) -> Node:
        """A node on a host of its own, unless one is given."""
        host = host or self.network.host(name, self.mbit)
        job = {
            "url": self.url,
            "address": str(self.address),
            "path": str(self.directory / name),
            "layer": str(self.directory / "layer"),
            "listen": f"{host.ip}:0",
        } | job
        return Node(host, self.directory / f"{name}.log", job)

    def seed(self, name: str, **job: Any) -> Node:
        """A node that has everything."""
        return self.node(name, path=str(self.content), seed=True, **job).ready()

    def right(self, *nodes: Node) -> bool:
        """Whether all have exactly the content."""
        return all(node.path.read_bytes() == self.data for node in nodes)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    if reason := unavailable():
        pytest.skip(reason)
    with Network() as network:
        yield lambda size=8 * MIB, mbit=None, name="content": World(network, tmp_path, size, mbit, name)


@serial
@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 6])
def test_nodes_that_start_together_take_about_one_copy_from_the_origin(world: Callable[..., World], count: int) -> None:
    swarm = world(16 * MIB, 200)
    start = time.time() + 1.5 + count
    nodes = [swarm.node(f"n{number}", start=start) for number in range(count)]
    brought = [node.ready().done() for node in nodes]
    assert swarm.right(*nodes)
    assert sum(each["from_origin"] for each in brought) <= 1.3 * swarm.size
    assert swarm.host.sent() <= 1.45 * swarm.size  # on the wire: with headers, and questions answered
    assert all(each["from_peers"] > 0 for each in brought)


@serial
def test_a_late_node_takes_nothing_from_the_origin(world: Callable[..., World]) -> None:
    swarm = world()
    first = swarm.node("first").ready()
    first.done()
    before = swarm.host.sent()
    late = swarm.node("late").ready()
    brought = late.done()
    assert swarm.right(first, late)
    assert brought["from_peers"] >= swarm.size
    assert brought["from_origin"] == 0
    assert swarm.host.sent() - before < swarm.size // 10


@serial
def test_a_node_that_joins_half_way_gets_the_rest_and_the_beginning(world: Callable[..., World]) -> None:
    swarm = world(16 * MIB, 40)
    early = swarm.node("early").ready()
    early.reaches(0.4, swarm.size)
    late = swarm.node("late").ready()
    brought = [early.done(), late.done()]
    assert swarm.right(early, late)
    assert sum(each["from_origin"] for each in brought) <= 1.3 * swarm.size


@serial
def test_a_seeder_that_is_killed_half_way_is_replaced_by_the_origin(world: Callable[..., World]) -> None:
    swarm = world(32 * MIB, 60)  # much more than the 8 MiB that a dead seed's kernel may still deliver
    seed = swarm.seed("seed")
    node = swarm.node("node").ready()
    node.reaches(0.1, swarm.size)
    seed.process.kill()
    brought = node.done()
    assert swarm.right(node)
    assert "http" in brought["rescues"], brought
    assert brought["from_peers"] > 0
    assert brought["from_origin"] > 0


@serial
@pytest.mark.parametrize("has", ["everything", "half of it"])
def test_without_the_catalog_nodes_go_on_among_themselves(world: Callable[..., World], has: str) -> None:
    """Killed when the swarm has a first copy: at one seed, or as halves at two nodes."""
    swarm = world(12 * MIB, 40)
    if has == "everything":
        other = swarm.seed("other")
    else:
        half = swarm.directory / "other"
        half.write_bytes(swarm.data[: 6 * MIB])
        with half.open("ab") as file:
            file.truncate(swarm.size)
        other = swarm.node("other").ready()
    part = swarm.directory / "node"
    if has != "everything":
        with part.open("wb") as file:
            file.seek(5 * MIB)
            file.write(swarm.data[5 * MIB :])
    node = swarm.node("node").ready()
    node.reaches(0.1 if has == "everything" else 0.65, swarm.size)
    swarm.origin.kill()
    brought = node.done()
    if has != "everything":
        other.done()
        assert swarm.right(other)
    assert swarm.right(node)
    assert brought["from_peers"] > 0


@serial
def test_a_poisoner_is_named_and_not_a_wrong_byte_is_kept(world: Callable[..., World]) -> None:
    swarm = world(12 * MIB, 100)
    evil = bytearray(swarm.data)
    for at in range(0, len(evil), 30_000):
        evil[at] ^= 1
    (swarm.directory / "evil").write_bytes(evil)
    (swarm.directory / "torrent").write_bytes(torrent_file(swarm.address, swarm.measured.layer))
    ips = []
    for number in range(2):
        host = swarm.network.host(f"evil{number}", 100)
        ips.append(host.ip)
        module = [
            sys.executable,
            "-m",
            "tests.support.stager.poisoning_peer",
            f"{host.ip}:6881",
            str(swarm.directory / "torrent"),
        ]
        poisoner = host.popen(
            [*module, str(swarm.directory), "evil", f"{swarm.url}/v1/announce"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert poisoner.stdout
        assert poisoner.stdout.readline()
    swarm.seed("honest")
    node = swarm.node("node").ready()
    brought = node.done()
    assert swarm.right(node)
    assert brought["wasted"] > 0
    assert brought["poisoners"]
    assert {peer.rpartition(":")[0] for peer in brought["poisoners"]} <= set(ips)


def test_only_poisoners_and_a_dead_origin_end_in_an_error_and_never_in_wrong_bytes(world: Callable[..., World]) -> None:
    swarm = world(4 * MIB)
    evil = bytes(byte ^ 1 for byte in swarm.data)
    (swarm.directory / "evil").write_bytes(evil)
    (swarm.directory / "torrent").write_bytes(torrent_file(swarm.address, swarm.measured.layer))
    host = swarm.network.host("evil")
    module = [
        sys.executable,
        "-m",
        "tests.support.stager.poisoning_peer",
        f"{host.ip}:6881",
        str(swarm.directory / "torrent"),
    ]
    poisoner = host.popen(
        [*module, str(swarm.directory), "evil", f"{swarm.url}/v1/announce"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert poisoner.stdout
    assert poisoner.stdout.readline()
    node = swarm.node("node", source=False, patience=12.0).ready()
    said = node.hears()
    assert said["failed"] == "SourceUnavailable"
    assert "partial data kept: stage again to resume" in said["reason"]


@pytest.mark.parametrize("filler", ["a peer", "the origin"])
def test_a_full_disk_is_an_error_and_what_came_is_kept(world: Callable[..., World], filler: str) -> None:
    swarm = world(8 * MIB)
    small = swarm.directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], check=True)
    try:
        if filler == "a peer":
            swarm.seed("seed")
        node = swarm.node("node", path=str(small / "incoming"), patience=20.0).ready()
        said = node.hears()
        assert said.get("failed") == "OSError", said
        assert "No space left" in said["reason"]
        kept = (small / "incoming").read_bytes()
        assert sum(kept[at : at + 65536] == swarm.data[at : at + 65536] for at in range(0, len(kept), 65536)) > 20
        node.process.kill()
        node.process.wait()
    finally:
        swarm.network.__exit__()
        subprocess.run(["umount", str(small)], check=True)


def test_a_cable_that_is_pulled_and_put_back_costs_only_time(world: Callable[..., World]) -> None:
    swarm = world(12 * MIB, 40)
    nodes = [swarm.node(f"n{number}").ready() for number in range(2)]
    nodes[0].reaches(0.3, swarm.size)
    nodes[0].host.cut()
    time.sleep(3.0)
    nodes[0].host.mend()
    for node in nodes:
        node.done()
    assert swarm.right(*nodes)


def test_without_the_right_a_node_gets_nothing_though_it_knows_where_to_ask(world: Callable[..., World]) -> None:
    swarm = world(4 * MIB, name="restricted")
    key = AnnounceKeys(SECRET).issue(KeyHolder("entitled", ""), short_hash(swarm.address), datetime.now(UTC))
    seed = swarm.seed("seed", grant=key)
    stranger = swarm.network.host("stranger")
    session = inside(stranger, lambda: _plain_client(swarm, stranger, None, [(seed.host.ip, seed.port)]))
    thief = swarm.node("thief", source=False, patience=4.0).ready()
    assert thief.hears()["failed"] == "SourceUnavailable"
    assert thief.progress(swarm.size) == 0.0
    assert session[1].status().total_payload_download == 0
    assert session[1].status().num_pieces == 0
    entitled = swarm.node("entitled", grant=key, source=False).ready()
    assert entitled.done()["from_peers"] >= swarm.size
    assert swarm.right(entitled)


def test_a_stock_client_joins_a_public_swarm_with_the_derived_torrent(world: Callable[..., World]) -> None:
    swarm = world(4 * MIB)
    swarm.seed("seed")
    host = swarm.network.host("stock")
    _, handle = inside(host, lambda: _plain_client(swarm, host, f"{swarm.url}/v1/announce", []))
    deadline = time.monotonic() + PATIENCE
    while not handle.status().is_seeding:
        assert time.monotonic() < deadline, handle.status().state
        time.sleep(0.05)
    # libtorrent is a seed when all hashes were right; all blocks, and so the file, may still be on their way to the disk.
    handle.flush_cache()
    stored = swarm.directory / "stock" / swarm.address.root.hex()
    while not stored.exists() or stored.read_bytes() != swarm.data:
        assert time.monotonic() < deadline, "what the stock client stored is not the partition"
        time.sleep(0.05)


def _plain_client(swarm: World, host: Host, announce: str | None, peers: list[tuple[str, int]]) -> tuple[Any, Any]:
    """libtorrent as any client uses it, with nothing of ours but the torrent file."""
    session = lt.session(
        {
            "listen_interfaces": f"{host.ip}:6881",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "webtorrent_stun_server": "",
        }
    )
    params = lt.load_torrent_buffer(torrent_file(swarm.address, swarm.measured.layer, announce))
    params.save_path = str(swarm.directory / "stock")
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handle = session.add_torrent(params)
    for peer in peers:
        handle.connect_peer(peer)
    return session, handle


@serial
@pytest.mark.parametrize("kills", [10, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_a_node_that_is_killed_at_random_points_goes_on_exactly_where_it_was(
    world: Callable[..., World], kills: int
) -> None:
    rng = random.Random(kills)
    swarm = world((2 if kills <= 10 else 8) * 8 * MIB, 40)
    swarm.seed("seed")
    host, journal = swarm.network.host("node", swarm.mbit), str(swarm.directory / "journal")
    here = 0.0
    for number in range(kills):
        # Half of the lives ask the tracker for first copies too; it gives none, since a seed is there.
        node = swarm.node("node", host=host, journal=journal, tickets=bool(number % 2)).ready()
        node.reaches(min(0.97, here + rng.uniform(0.0, 1.6 / kills)), swarm.size)
        time.sleep(rng.uniform(0.0, 0.02))
        node.process.kill()
        node.process.wait()
        # Nothing that was written is thrown away.
        assert node.progress(swarm.size) >= here
        here = node.progress(swarm.size)
    last = swarm.node("node", host=host, journal=journal, tickets=False).ready()
    brought = last.done()
    assert swarm.right(last)
    missing = swarm.size - brought["resumed"]
    assert brought["from_peers"] - brought["wasted"] + brought["from_origin"] == missing
    assert brought["wasted"] <= 64 << 10
    assert brought["resumed"] > (here - 0.25) * swarm.size
    assert not Path(journal).exists()
