"""The swarm over failures of its peer process: crash, hang, growth; and how soon a node shares again what it has."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog.content.indexing import index_file
from catalog.swarm.tracker import Endpoint
from stager.content.leaf_set import LeafSet
from stager.content.piece_map import PieceMap
from stager.errors import PeerFailed
from stager.fetch.resume import find_leaves, read_boot_id
from stager.swarm.swarm import Swarm, SwarmOptions

PATIENCE = 40.0


def guide(path: Path) -> PieceMap:
    measured = index_file(path)
    return PieceMap.of(measured.address, measured.layer)


@pytest.fixture
def swarm() -> Iterator[Callable[..., Swarm]]:
    entered: list[Swarm] = []

    def make(**options: object) -> Swarm:
        made = Swarm(None, SwarmOptions(listen="127.0.0.1:0", **options), boot=read_boot_id())  # type: ignore[arg-type]
        entered.append(made.__enter__())
        return made

    yield make
    for each in entered:
        each.__exit__(None, None, None)


def meet(one: Swarm, other: Swarm) -> None:
    """Name two nodes to each other, for all that both share."""
    for first, second in ((one, other), (other, one)):
        for member in first.torrents:
            first.add_peers(member, {Endpoint("127.0.0.1", second.port)})


def eventually(what: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """Wait for something; returns how long it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.parametrize("how", ["crash", "hang"])
@pytest.mark.parametrize("whose", ["the one that fetches", "the one that shares"])
def test_a_peer_process_that_fails_is_replaced_and_goes_on(
    swarm: Callable[..., Swarm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, whose: str
) -> None:
    monkeypatch.setattr("stager.peer.supervisor.SILENCE", 1.0)
    (tmp_path / "content").write_bytes(os.urandom(12 << 20))
    content = guide(tmp_path / "content")
    source, sink = swarm(upload_limit=4 << 20), swarm()
    source.join(content, tmp_path / "content")
    leaves = find_leaves(content, tmp_path / "incoming", None, read_boot_id())
    member = sink.join(content, tmp_path / "incoming", leaves)
    meet(source, sink)
    eventually(lambda: leaves.missing < content.address.size * 3 // 4)
    failing = sink if whose == "the one that fetches" else source
    pid, port = failing.peer_pid, failing.port
    os.kill(pid, signal.SIGKILL if how == "crash" else signal.SIGSTOP)
    eventually(lambda: failing.restarts == 1 and failing.peer_pid not in {0, pid})
    assert sink.wait(lambda: member.complete, PATIENCE)
    assert (tmp_path / "incoming").read_bytes() == (tmp_path / "content").read_bytes()
    assert failing.port == port
    if failing is sink:  # what had come before was not fetched again
        assert member.from_peers < content.address.size * 1.4
    assert not Path(f"/proc/{pid}").exists()


def test_a_peer_process_that_grows_too_large_is_replaced_until_that_is_pointless(
    swarm: Callable[..., Swarm], tmp_path: Path
) -> None:
    (tmp_path / "content").write_bytes(os.urandom(1 << 20))
    content = guide(tmp_path / "content")
    small = swarm(memory=1 << 20)
    member = small.join(
        content, tmp_path / "incoming", find_leaves(content, tmp_path / "incoming", None, read_boot_id())
    )
    assert small.wait(lambda: member.failure is not None, PATIENCE)
    assert "uses more than 1 MiB" in (member.failure or "")
    assert small.restarts > 3


def test_a_restarted_node_shares_what_it_has_within_a_second_without_reading_it(
    swarm: Callable[..., Swarm], tmp_path: Path
) -> None:
    """Sparse files of 1 GiB: their piece layers are as large as real ones, and reading them would take half a minute."""
    contents = []
    for number in range(20):
        path = tmp_path / f"content{number}"
        with path.open("wb") as file:
            file.write(os.urandom(4096))
            file.truncate(1 << 30)
        contents.append((guide(path), path))
    node, other = swarm(), swarm()
    began = time.process_time()
    for content, path in contents:
        node.join(content, path)
    assert time.process_time() - began < 1.0
    last, path = contents[-1]
    leaves = LeafSet(last.address)
    leaves.add(65536 * 2, last.address.size)
    with (tmp_path / "incoming").open("wb") as file:
        file.truncate(last.address.size)
    member = other.join(last, tmp_path / "incoming", leaves)
    meet(node, other)
    eventually(lambda: member.complete)
    io = Path(f"/proc/{node.peer_pid}/io").read_text()
    assert int(io.split("rchar: ")[1].split()[0]) < 64 << 20


def test_two_users_of_one_swarm_and_leaving(swarm: Callable[..., Swarm], tmp_path: Path) -> None:
    source, sink = swarm(), swarm()
    members = []
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(os.urandom(1 << 20))
        content = guide(tmp_path / name)
        source.join(content, tmp_path / name)
        leaves = find_leaves(content, tmp_path / f"{name}-in", None, read_boot_id())
        members.append(sink.join(content, tmp_path / f"{name}-in", leaves))
    source.leave(members[1].address)
    meet(source, sink)
    eventually(lambda: members[0].complete)
    time.sleep(0.5)
    assert not members[1].complete
    source.join(guide(tmp_path / "two"), tmp_path / "two")
    meet(source, sink)
    eventually(lambda: members[1].complete)


def test_a_port_that_is_taken_is_one_clear_error(swarm: Callable[..., Swarm]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PeerFailed, match=f"does not listen on 127.0.0.1:{port}"):
            Swarm(None, SwarmOptions(listen=f"127.0.0.1:{port}"), boot="b").__enter__()
    assert not [thread for thread in threading.enumerate() if "PeerProcess" in thread.name]


def test_without_a_proved_layer_nothing_is_joined(swarm: Callable[..., Swarm], tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(os.urandom(1 << 20))
    with pytest.raises(ValueError, match="no proved piece layer"):
        swarm().join(PieceMap.of(index_file(tmp_path / "content").address), tmp_path / "content")
