"""The peer process alone: real processes of it, over its pipes, on loopback."""

import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from catalog.content.indexing import ContentIndex, index_file
from catalog.image.address import LEAF, Address
from catalog.swarm.torrent import torrent_file
from stager.content.leaf_set import LeafSet
from stager.peer.engine_profiles import EngineProfile
from stager.peer.protocol import (
    AddContent,
    AddressBlocked,
    AllowAddresses,
    ConnectPeers,
    ContentComplete,
    ContentProgress,
    CorruptPiece,
    FileMoved,
    FrameReader,
    PeerEvent,
    PeerFailure,
    PiecesReceived,
    PiecesWritten,
    QuitSession,
    RemoveContent,
    SessionReady,
    StartSession,
    TuneSession,
    encode_frame,
)
from stager.peer.supervisor import PeerProcess

E = TypeVar("E")
PATIENCE = 40.0


class Peer:
    """A peer process with its events in a queue."""

    def __init__(self) -> None:
        self.heard: queue.SimpleQueue[PeerEvent] = queue.SimpleQueue()
        self.all: list[PeerEvent] = []
        self.process = PeerProcess(self.heard.put)
        self.process.send(StartSession(listen="127.0.0.1:0", profile=EngineProfile.BULK))
        self.port = self.wait(SessionReady).port
        self.process.send(AllowAddresses(ips=("127.0.0.1",)))

    def wait(self, kind: type[E], when: Callable[[E], bool] = lambda _: True) -> E:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                event = self.heard.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind.__name__} came; what came: {self.all[-20:]}") from None
            self.all.append(event)
            if isinstance(event, kind) and when(event):
                return event

    def silent(self, kind: type, seconds: float) -> bool:
        """Whether no such event comes for some seconds."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self.heard.get(timeout=left)
            except queue.Empty:
                return True
            self.all.append(event)
            if isinstance(event, kind):
                return False
        return True

    def seed(self, measured: ContentIndex, path: Path) -> None:
        order = AddContent(address=measured.address, path=str(path), layer=len(measured.layer), complete=True)
        self.process.send(order, measured.layer)

    def fetch(self, measured: ContentIndex, path: Path, *others: "Peer", leaves: LeafSet | None = None) -> None:
        leaves = leaves or LeafSet(measured.address)
        order = AddContent(address=measured.address, path=str(path), layer=len(measured.layer), complete=False)
        self.process.send(order, measured.layer + leaves.bits())
        self.connect(measured.address, *(other.port for other in others))

    def connect(self, address: Address, *ports: int) -> None:
        self.process.send(ConnectPeers(address=address, peers=tuple(("127.0.0.1", port) for port in ports)))


@pytest.fixture
def make() -> Iterator[Callable[[], Peer]]:
    made: list[Peer] = []

    def new() -> Peer:
        made.append(Peer())
        return made[-1]

    yield new
    for peer in made:
        peer.process.stop(kill=True)


def content(path: Path, size: int = (2 << 20) + 12_345) -> ContentIndex:
    path.write_bytes(os.urandom(size))
    return index_file(path)


def blank(path: Path, measured: ContentIndex) -> Path:
    with path.open("wb") as file:
        file.truncate(measured.address.size)
    return path


def test_a_content_goes_from_one_to_another_and_on_to_a_third_after_its_file_was_renamed(
    make: Callable[[], Peer], tmp_path: Path
) -> None:
    measured = content(tmp_path / "content")
    first, second = make(), make()
    first.seed(measured, tmp_path / "content")
    second.fetch(measured, blank(tmp_path / "incoming", measured), first)
    second.wait(ContentComplete)
    pieces = {piece for event in second.all if isinstance(event, PiecesReceived) for piece in event.pieces}
    assert pieces == set(range(33))
    assert (tmp_path / "incoming").read_bytes() == (tmp_path / "content").read_bytes()
    (tmp_path / "final").mkdir()
    (tmp_path / "incoming").rename(tmp_path / "final" / "partition")
    second.process.send(FileMoved(address=measured.address, path=str(tmp_path / "final" / "partition")))
    first.process.stop(kill=True)
    third = make()
    third.fetch(measured, blank(tmp_path / "third", measured), second)
    third.wait(ContentComplete)
    assert (tmp_path / "third").read_bytes() == (tmp_path / "content").read_bytes()
    assert not (tmp_path / "incoming").exists()


def test_only_the_leaves_that_are_missing_are_fetched(make: Callable[[], Peer], tmp_path: Path) -> None:
    measured = content(tmp_path / "content")
    data = bytearray((tmp_path / "content").read_bytes())
    leaves = LeafSet(measured.address)
    lacking = [0, 5, 6, 64, 128]  # alone in a piece, two in one, the only leaf of the short last piece
    for leaf in range(measured.address.leaves):
        start, end = leaf * LEAF, min((leaf + 1) * LEAF, measured.address.size)
        if leaf in lacking:
            data[start:end] = bytes(end - start)
        else:
            leaves.add(start, end)
    (tmp_path / "incoming").write_bytes(data)
    first, second = make(), make()
    first.seed(measured, tmp_path / "content")
    second.fetch(measured, tmp_path / "incoming", first, leaves=leaves)
    came = second.wait(ContentProgress, lambda event: event.from_peers >= leaves.missing)
    second.wait(ContentComplete)
    assert (tmp_path / "incoming").read_bytes() == (tmp_path / "content").read_bytes()
    assert came.from_peers == leaves.missing == 4 * LEAF + 12_345
    assert came.wasted == 0


def test_pieces_from_elsewhere_are_checked_and_shared(make: Callable[[], Peer], tmp_path: Path) -> None:
    measured = content(tmp_path / "content")
    data = (tmp_path / "content").read_bytes()
    first, second = make(), make()
    blank(tmp_path / "one", measured)
    first.fetch(measured, tmp_path / "one")
    second.fetch(measured, blank(tmp_path / "two", measured), first)
    wrong = bytearray(data)
    wrong[3 * 65536] ^= 1
    (tmp_path / "one").write_bytes(wrong)
    first.process.send(PiecesWritten(address=measured.address, pieces=tuple(range(33))))
    assert first.wait(CorruptPiece).piece == 3
    assert second.silent(ContentComplete, 1.0)
    (tmp_path / "one").write_bytes(data)
    first.process.send(PiecesWritten(address=measured.address, pieces=(3,)))
    second.wait(ContentComplete)
    assert (tmp_path / "two").read_bytes() == data


def test_nobody_is_let_in_whom_nobody_named(make: Callable[[], Peer], tmp_path: Path) -> None:
    measured = content(tmp_path / "content")
    first, stranger = make(), make()
    first.process.send(AllowAddresses(ips=("192.0.2.1",)))
    first.seed(measured, tmp_path / "content")
    stranger.fetch(measured, blank(tmp_path / "stolen", measured), first)
    assert first.wait(AddressBlocked).ip == "127.0.0.1"
    assert stranger.silent(PiecesReceived, 1.5)
    assert not any((tmp_path / "stolen").read_bytes())
    first.process.send(AllowAddresses(ips=("127.0.0.1",)))  # the same address named: nothing else stood in the way
    stranger.wait(ContentComplete)


@pytest.mark.parametrize("poisoners", [1, 3])
def test_wrong_bytes_are_never_accepted_and_who_sends_them_is_named(
    make: Callable[[], Peer], tmp_path: Path, poisoners: int
) -> None:
    measured = content(tmp_path / "content", 6 << 20)
    data = (tmp_path / "content").read_bytes()
    evil = bytearray(data)
    for at in range(0, len(evil), 40_000):
        evil[at] ^= 0x55
    (tmp_path / "evil").write_bytes(evil)
    (tmp_path / "torrent").write_bytes(torrent_file(measured.address, measured.layer))
    bad: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(poisoners):
            command = [
                "tests.support.stager.poisoning_peer",
                f"127.0.0.{number + 2}:0",
                str(tmp_path / "torrent"),
                str(tmp_path),
                "evil",
            ]
            bad.append(
                subprocess.Popen([sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
        ports = [int(process.stdout.readline()) for process in bad if process.stdout]
        victim, honest = make(), make()
        victim.fetch(measured, blank(tmp_path / "incoming", measured))
        evil_peers = tuple((f"127.0.0.{number + 2}", port) for number, port in enumerate(ports))
        victim.process.send(AllowAddresses(ips=("127.0.0.1", *(ip for ip, _ in evil_peers))))
        victim.process.send(ConnectPeers(address=measured.address, peers=evil_peers))
        poison = victim.wait(CorruptPiece)
        honest.seed(measured, tmp_path / "content")
        victim.connect(measured.address, honest.port)
        victim.wait(ContentComplete)
    finally:
        for process in bad:
            process.communicate()
    assert (tmp_path / "incoming").read_bytes() == data
    certain = {event.culprit for event in victim.all if isinstance(event, CorruptPiece) and event.culprit}
    assert certain
    assert {peer.rpartition(":")[0] for peer in certain} <= {ip for ip, _ in evil_peers}
    assert poison.address == measured.address


def test_what_was_removed_is_shared_no_more(make: Callable[[], Peer], tmp_path: Path) -> None:
    measured = content(tmp_path / "content")
    first, second = make(), make()
    first.seed(measured, tmp_path / "content")
    first.process.send(RemoveContent(address=measured.address))
    second.fetch(measured, blank(tmp_path / "incoming", measured), first)
    assert second.silent(PiecesReceived, 1.5)
    first.seed(measured, tmp_path / "content")
    second.wait(ContentComplete)


def test_a_rate_limit_holds_on_the_local_network_too(make: Callable[[], Peer], tmp_path: Path) -> None:
    measured = content(tmp_path / "content", 3 << 20)
    first, second = make(), make()
    first.process.send(TuneSession(profile=EngineProfile.SWARM, upload_limit=1 << 20))
    first.seed(measured, tmp_path / "content")
    began = time.monotonic()
    second.fetch(measured, blank(tmp_path / "incoming", measured), first)
    second.wait(ContentComplete)
    assert time.monotonic() - began > 1.5  # 3 MiB at 1 MiB/s, of which a first burst is free


def test_a_disk_that_refuses_is_reported(make: Callable[[], Peer], tmp_path: Path) -> None:
    measured = content(tmp_path / "content")
    first, second = make(), make()
    first.seed(measured, tmp_path / "content")
    (tmp_path / "incoming").mkdir()  # a directory where the file should be
    second.fetch(measured, tmp_path / "incoming", first)
    assert second.wait(PeerFailure).address == measured.address


def test_it_ends_with_its_input_and_when_told(make: Callable[[], Peer]) -> None:
    told = make()
    told.process.send(QuitSession())
    deadline = time.monotonic() + 60
    while told.process.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not told.process.alive
    left = make()
    left.process.stop()
    assert left.process._process.returncode == 0, "it was killed"


def test_messages_are_cut_wherever_the_pipe_cuts_them() -> None:
    address = Address(b"r" * 32, 5)
    stream = encode_frame(PiecesWritten(address=address, pieces=(1, 2))) + encode_frame(
        AddContent(address=address, path="/x", layer=3, complete=True), b"a\nb"
    ) + encode_frame(QuitSession())  # fmt: skip
    for step in (1, 2, 7, len(stream)):
        frames = FrameReader()
        got = [piece for at in range(0, len(stream), step) for piece in frames.feed(stream[at : at + step])]
        assert [attached for _, attached in got] == [b"", b"a\nb", b""]
        assert b"attached" not in got[1][0]
