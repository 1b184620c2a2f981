"""The swarm against its limit, against plain libtorrent and against plain HTTP; hosts are namespaces with shaped links.

The fluid limit is the least time in which N nodes with uplinks u_i and downlinks d_i can get F bytes from an origin with
uplink u_s: max(F/u_s, F/d_min, N F/(u_s + sum u_i)) (Kumar and Ross, HotWeb 2006). Here all links are equal, so it is F
over the link's rate, whatever N is; headers are not in it.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plain_peer import TCP_ONLY, TUNED
from catalog.content.indexing import ContentIndex, index_file
from catalog.image.address import Address
from catalog.swarm.torrent import torrent_file
from catalog.swarm.tracker import Endpoint
from stager.content.piece_map import PieceMap
from stager.fetch.resume import find_leaves, read_boot_id
from stager.peer.engine_profiles import COMMON_SETTINGS, PROFILES, EngineProfile
from stager.swarm.swarm import Swarm, SwarmOptions
from tests.support.network_namespaces import Host, Network, unavailable

MBIT = 100
SIZE = 256_000_000
NODES = (1, 2, 4, 6)
HTTP_SHARE = 4
"""Plain HTTP is measured with a quarter of the content, and its time multiplied: it is as long as it is linear."""

LOOPBACK = 1 << 30
ROUNDS = 3
PARTITIONS = 50
"""Partitions that a restarted node shares; 1 GiB each, sparse."""

PATIENCE = 600.0


def run(workdir: Path) -> dict[str, Any]:
    """All of it; writes the plot `swarm.png` beside the other results."""
    if reason := unavailable():
        raise SystemExit(f"benchmarks.swarm: {reason}")
    content = _content(workdir / "content", SIZE)
    (workdir / "torrent").write_bytes(torrent_file(content.address, content.layer))
    (workdir / "layer").write_bytes(content.layer)
    limit = SIZE * 8 / (MBIT * 1e6)
    rows: list[dict[str, Any]] = []
    times: dict[str, list[float]] = {"Partita": [], "libtorrent, TCP": [], "HTTP, each by itself": []}
    for count in NODES:
        ours = _ours(workdir, content.address, count)
        plain = _plain(workdir, count)
        alone = _http(workdir, count)
        for name, value in zip(times, (ours["slowest"], plain["slowest"], alone), strict=True):
            times[name].append(value)
        row = {"cpu_s": ours["cpu"], "rss_mib": ours["rss"] / (1 << 20)}
        bound = 1.25
        rows += [
            _row(f"{count} nodes: slowest, to fluid limit", ours["slowest"], limit, "s", bound, "<= 1.25", **row),
            _row(f"{count} nodes: slowest, to libtorrent TCP", ours["slowest"], plain["slowest"], "s", 1.05, "<= 1.05"),
            _row(f"{count} nodes: slowest, to HTTP", ours["slowest"], alone, "s", 1.25, "<= 1.25"),
            _row(f"{count} nodes: origin's egress", ours["egress"] / SIZE, 1.0, "copies", 1.3, "<= 1.3"),
        ]
        print(f"   {count}: {ours} plain {plain} http {alone:.1f} load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    rows.append(_row("slowest of 6 to slowest of 1", times["Partita"][-1], times["Partita"][0], "s", 1.25, "flat in N"))
    rows += _loopback(workdir)
    rows.append(_restart(workdir))
    _plot(Path(__file__).parent / "results" / "swarm.png", times, limit)
    return {"rows": rows}


def _row(name: str, ours: float, peer: float, unit: str, bound: float, target: str, **more: float) -> dict[str, Any]:
    """A row whose ratio must not exceed its bound."""
    ratio = ours / peer
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "unit": unit,
        "ratio": ratio,
        "target": target,
        "bound": bound,
        "met": ratio <= bound,
    } | more


def _content(path: Path, size: int) -> ContentIndex:
    rng = random.Random(size)  # noqa: S311 - content that is the same each time
    with path.open("wb") as file:
        for at in range(0, size, 16 << 20):
            file.write(rng.randbytes(min(16 << 20, size - at)))
    return index_file(path)


def _start(host: Host, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    return host.popen([sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _read(process: "subprocess.Popen[bytes]") -> Any:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended early")
    return json.loads(line)


def _ours(workdir: Path, address: Address, count: int) -> dict[str, Any]:
    """Seconds of the slowest node, bytes that left the origin, CPU seconds of all nodes, bytes that the largest holds."""
    with Network() as network:
        origin = network.host("origin", MBIT)
        ready = workdir / "ready"
        server = _start(
            origin, "tests.support.stager.swarm_origin", f"{origin.ip}:7070", str(ready), str(workdir / "content")
        )
        while not ready.exists():
            if server.poll() is not None:
                raise RuntimeError("the origin ended early")
            time.sleep(0.05)
        ready.unlink()
        start = time.time() + 4.0 + count / 2
        nodes = []
        for number in range(count):
            host = network.host(f"n{number}", MBIT)
            job = {
                "url": f"http://{origin.ip}:7070",
                "address": str(address),
                "path": str(workdir / f"n{number}"),
                "layer": str(workdir / "layer"),
                "journal": str(workdir / f"j{number}"),
                "listen": f"{host.ip}:0",
                "start": start,
            }
            nodes.append(_start(host, "tests.support.stager.swarm_node", json.dumps(job)))
        for node in nodes:
            _read(node)
        idle = origin.sent()
        brought = [_read(node) for node in nodes]
        egress = origin.sent() - idle
        ends = []
        for node in nodes:
            assert node.stdin
            node.stdin.close()
            ends.append(_read(node))
    for number in range(count):
        if index_file(workdir / f"n{number}").address != address:
            raise RuntimeError("a node ended with wrong bytes")
        (workdir / f"n{number}").unlink()
    return {
        "slowest": max(each["done"] for each in brought),
        "egress": egress,
        "cpu": sum(end["cpu"] + end["peer_cpu"] for end in ends),
        "rss": max(end["rss"] + end["peer_rss"] for end in ends),
        "wasted": sum(each["brought"]["wasted"] for each in brought),
        "rescues": sum(len(each["brought"]["rescues"]) for each in brought),
    }


def _plain(workdir: Path, count: int) -> dict[str, Any]:
    """The same with libtorrent by itself: the origin is a seed, every node knows every other, TCP only."""
    with Network() as network:
        hosts = [network.host("origin", MBIT), *(network.host(f"n{number}", MBIT) for number in range(count))]
        start = time.time() + 2.0 + count / 2
        peers = []
        for number, host in enumerate(hosts):
            directory = workdir if number == 0 else workdir / f"plain{number}"
            directory.mkdir(exist_ok=True)
            job = {
                "listen": f"{host.ip}:6881",
                "torrent": str(workdir / "torrent"),
                "directory": str(directory),
                "name": "content",
                "seed": number == 0,
                "peers": [[other.ip, 6881] for other in hosts if other is not host] if number else [],
                "settings": TCP_ONLY,
                "start": start if number else 0,
            }
            peers.append(_start(host, "benchmarks.plain_peer", json.dumps(job)))
        for peer in peers:
            _read(peer)
        seconds = [float(_read(peer)) for peer in peers[1:]]
        egress = hosts[0].sent()
    for number in range(count):
        (workdir / f"plain{number + 1}" / "content").unlink()
    return {"slowest": max(seconds), "egress": egress}


def _http(workdir: Path, count: int) -> float:
    """Seconds of the slowest of so many nodes that each fetch everything from the origin."""
    part = workdir / "part"
    with part.open("wb") as file, (workdir / "content").open("rb") as content:
        file.write(content.read(SIZE // HTTP_SHARE))
    with Network() as network:
        origin = network.host("origin", MBIT)
        hosts = [network.host(f"n{number}", MBIT) for number in range(count)]
        origin.popen(
            [sys.executable, "-m", "http.server", "--bind", origin.ip, "--directory", str(workdir), "8080"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"http://{origin.ip}:8080/part"
        while hosts[0].popen(["curl", "-sf", "-o", os.devnull, "-r", "0-0", url]).wait():
            time.sleep(0.1)
        began = time.monotonic()
        clients = [host.popen(["curl", "-sf", "-o", os.devnull, url]) for host in hosts]
        if any(client.wait() for client in clients):
            raise RuntimeError("curl failed")
        return (time.monotonic() - began) * HTTP_SHARE


def _loopback(workdir: Path) -> list[dict[str, Any]]:
    """One node and one seed on loopback, against libtorrent alone with the same settings."""
    path = workdir / "large"
    content = _content(path, LOOPBACK)
    (workdir / "large.torrent").write_bytes(torrent_file(content.address, content.layer))
    ours, cpu = [], []
    peers: dict[str, list[float]] = {"tuned libtorrent": [], "libtorrent with our settings": []}
    for _ in range(ROUNDS):
        peers["tuned libtorrent"].append(_alone(workdir, TUNED))
        seconds, used = _swarm_alone(workdir, content)
        ours.append(seconds)
        cpu.append(used)
        peers["libtorrent with our settings"].append(
            _alone(workdir, {**COMMON_SETTINGS, **PROFILES[EngineProfile.BULK]})
        )
    print(f"   loopback: ours {ours} cpu {cpu} {peers}", file=sys.stderr)
    rate = LOOPBACK / statistics.median(ours) / 1e6
    rows = []
    # The second is what our settings give without our supervision, journal and wait for the storage: 5 % are for those.
    for (name, times), bound in zip(peers.items(), (1.0, 0.95), strict=True):
        peer_rate = LOOPBACK / statistics.median(times) / 1e6
        rows.append(
            {
                "name": f"1 node, loopback, 1 GiB, to {name}",
                "ours": rate,
                "peer": peer_rate,
                "unit": "MB/s",
                "ratio": rate / peer_rate,
                "target": f">= {bound}",
                "bound": bound,
                "met": rate >= bound * peer_rate,
                "cpu_s": statistics.median(cpu),
            }
        )
    return rows


def _alone(workdir: Path, settings: Mapping[str, Any]) -> float:
    """Seconds of libtorrent alone with those settings."""
    (workdir / "alone").mkdir(exist_ok=True)
    both: list[subprocess.Popen[bytes]] = []
    port = 0
    for seed in (True, False):
        job = {
            "listen": "127.0.0.1:0",
            "torrent": str(workdir / "large.torrent"),
            "directory": str(workdir if seed else workdir / "alone"),
            "name": "large",
            "seed": seed,
            "peers": [] if seed else [["127.0.0.1", port]],
            "settings": dict(settings),
            "start": 0,
        }
        command = [sys.executable, "-m", "benchmarks.plain_peer", json.dumps(job)]
        both.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        port = port or _read(both[-1])
        if not seed:
            _read(both[-1])
    seconds = float(_read(both[1]))
    for process in both:
        process.communicate()
    (workdir / "alone" / "large").unlink()
    return seconds


def _swarm_alone(workdir: Path, content: ContentIndex) -> tuple[float, float]:
    """(seconds, CPU seconds of both peer processes) of our node with one seed, through all of our own code."""
    guide, boot = PieceMap.of(content.address, content.layer), read_boot_id()
    options = SwarmOptions(listen="127.0.0.1:0")
    incoming = workdir / "incoming"
    with Swarm(None, options, boot=boot) as source, Swarm(None, options, boot=boot) as sink:
        shared = source.join(guide, workdir / "large")
        source.add_peers(shared, {Endpoint("127.0.0.1", sink.port)})
        began = time.monotonic()
        member = sink.join(guide, incoming, find_leaves(guide, incoming, None, boot), workdir / "journal")
        sink.add_peers(member, {Endpoint("127.0.0.1", source.port)})
        if not sink.wait(lambda: member.complete or member.failure is not None, PATIENCE) or member.failure:
            raise RuntimeError(f"the swarm did not end: {member.failure}")
        seconds = time.monotonic() - began
        cpu = sum(_cpu(swarm.peer_pid) for swarm in (source, sink))
    incoming.unlink()
    return seconds, cpu


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _restart(workdir: Path) -> dict[str, Any]:
    """Seconds from the start of a node's peer process until the last of its partitions is shared with another."""
    boot, guides = read_boot_id(), []
    for number in range(PARTITIONS):
        path = workdir / f"sparse{number}"
        with path.open("wb") as file:
            file.write(number.to_bytes(4, "big"))
            file.truncate(1 << 30)
        measured = index_file(path)
        guides.append((PieceMap.of(measured.address, measured.layer), path))
    last, path = guides[-1]
    incoming = workdir / "incoming"
    with Swarm(None, SwarmOptions(listen="127.0.0.1:0"), boot=boot) as other:
        member = other.join(last, incoming, find_leaves(last, incoming, None, boot))
        began = time.monotonic()
        with Swarm(None, SwarmOptions(listen="127.0.0.1:0"), boot=boot) as node:
            for guide, each in guides:
                node.join(guide, each)
            for one in node.torrents:
                node.add_peers(one, {Endpoint("127.0.0.1", other.port)})
            other.add_peers(member, {Endpoint("127.0.0.1", node.port)})
            if not other.wait(lambda: member.complete, PATIENCE):
                raise RuntimeError("the restarted node shares nothing")
            seconds = time.monotonic() - began
    return _row(f"restart to sharing {PARTITIONS} partitions of 1 GiB", seconds, 1.0, "s", 1.0, "<= 1 s")


def _plot(file: Path, times: dict[str, list[float]], limit: float) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    styles: Sequence[str] = ("o-", "s--", "^:")
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for (name, seconds), style in zip(times.items(), styles, strict=True):
        axes.plot(NODES, seconds, style, label=name)
    axes.axhline(limit, color="black", linewidth=0.8, label="fluid limit")
    axes.axhline(1.25 * limit, color="black", linewidth=0.8, linestyle=":", label="target")
    axes.set_xlabel("nodes that start together")
    axes.set_ylabel(f"seconds until the slowest has {SIZE // 1_000_000} MB")
    axes.set_xticks(NODES)
    axes.set_ylim(bottom=0)
    axes.set_title(f"One origin, links of {MBIT} Mbit/s")
    axes.legend()
    figure.tight_layout()
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=120)
