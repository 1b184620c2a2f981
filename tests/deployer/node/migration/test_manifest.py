"""What travels when a machine moves: files that come as they are or not at all, and what a node does about its part."""

import os
import random
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from deployer.errors import MigrationFailed
from deployer.machine.spec import MachineState
from deployer.node.agent.reconciler import plan_actions
from deployer.node.migration.manifest import (
    MAX_RUN,
    RUN_HEADER,
    MigrationFile,
    describe_file,
    read_runs,
    verify_file,
    write_runs,
)
from deployer.node.migration.qcow2_check import check_overlay
from deployer.protocol.actions import Action, ActionKind
from deployer.protocol.desired_state import DesiredState, DesiredStatus, IncomingMigration
from deployer.protocol.migration import OutgoingMigration
from tests.deployer.node.agent.test_reconciler import NOW, A, B, record
from tests.support.node.fake_site import machine

MIB = 1 << 20
NODE = "9" * 8 + "-0000-4000-8000-000000000000"
GIVING = OutgoingMigration(number=3, to=NODE)
SUSPENDED = {"state": MachineState.SUSPENDED, "wanted": "suspended"}


def sparse(place: Path) -> Path:
    """Three MiB of which a few blocks are not zero, over the edge of a run, and an odd end."""
    rng = random.Random(7)
    with place.open("wb") as file:
        for offset, length in ((0, 5), (MAX_RUN - 100, 5000), (2 * MIB + 4096, 4096), (3 * MIB - 3, 40)):
            file.seek(offset)
            file.write(rng.randbytes(length))
    return place


def bring(source: Path, target: Path, stream: Iterable[bytes] | None = None) -> MigrationFile:
    """What `Taker` does with one file."""
    piece, descriptor = describe_file(source, "disk0.qcow2"), os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        start = min(os.fstat(descriptor).st_size, piece.size)
        write_runs(descriptor, piece, read_runs(source, start) if stream is None else stream, lambda _: None)
        os.ftruncate(descriptor, piece.size)
    finally:
        os.close(descriptor)
    verify_file(target, piece)
    return piece


@pytest.mark.parametrize("portion", [1 << 20, 1000, 7])
def test_a_file_comes_as_it_is_and_its_zeros_do_not_travel(tmp_path: Path, portion: int) -> None:
    source = sparse(tmp_path / "a")
    whole = b"".join(read_runs(source))
    assert len(whole) < 10 * 4096
    bring(source, tmp_path / "b", [whole[at : at + portion] for at in range(0, len(whole), portion)])
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 < 20 * 4096


@pytest.mark.parametrize("cut", [0, 1, 20, 5000, 12000])
def test_a_file_that_was_cut_goes_on_where_it_was(tmp_path: Path, cut: int) -> None:
    source = sparse(tmp_path / "a")
    with pytest.raises(MigrationFailed, match="came to an end before its end") as failed:
        bring(source, tmp_path / "b", [b"".join(read_runs(source))[:cut]])
    assert failed.value.again
    bring(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == source.read_bytes()


HOSTILE: list[tuple[str, Callable[[int], bytes], str]] = [
    ("a run beyond the end", lambda size: RUN_HEADER.pack(size - 1, 2) + b"ab", "no part of a file"),
    ("a run that is too long", lambda _: RUN_HEADER.pack(0, MAX_RUN + 1), "no part of a file"),
    (
        "a run before the one before",
        lambda _: RUN_HEADER.pack(8, 1) + b"a" + RUN_HEADER.pack(0, 1) + b"b",
        "no part of a file",
    ),
    ("an offset that is no offset", lambda _: RUN_HEADER.pack((1 << 64) - 1, 1) + b"a", "no part of a file"),
    ("other bytes", lambda size: RUN_HEADER.pack(0, 3) + b"abc" + RUN_HEADER.pack(size, 0), "not what was offered"),
    ("no bytes", lambda size: RUN_HEADER.pack(size, 0), "not what was offered"),
]


@pytest.mark.parametrize(("what", "stream", "says"), HOSTILE, ids=[what for what, _, _ in HOSTILE])
def test_what_was_not_offered_is_not_believed(
    tmp_path: Path, what: str, stream: Callable[[int], bytes], says: str
) -> None:
    source = sparse(tmp_path / "a")
    with pytest.raises(MigrationFailed, match=says):
        bring(source, tmp_path / "b", [stream(source.stat().st_size)])


def overlay(place: Path) -> Path:
    """One such as we make."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(place), "1M"], check=True)
    return place


HEADS: list[tuple[str, int, bytes]] = [
    ("it is of another format", 0, b"KDMV"),
    ("it is an older version", 4, struct.pack(">I", 2)),
    ("it is of another size", 24, struct.pack(">Q", 2 * MIB)),
    ("it is encrypted", 32, struct.pack(">I", 2)),
    ("it has snapshots", 60, struct.pack(">I", 1)),
    ("its data is in a file that it names", 72, struct.pack(">Q", 4)),
]


@pytest.mark.parametrize(("what", "at", "data"), HEADS, ids=[what for what, _, _ in HEADS])
def test_an_overlay_that_leads_elsewhere_is_refused(tmp_path: Path, what: str, at: int, data: bytes) -> None:
    """Whatever the other node wrote, this one reads no file because of it."""
    place = overlay(tmp_path / "disk0.qcow2")
    check_overlay(place, MIB)
    with place.open("r+b") as file:
        file.seek(at)
        file.write(data)
    with pytest.raises(MigrationFailed, match="is no overlay such as nodes make"):
        check_overlay(place, MIB)


def incoming(number: int = 3, uuid: str = A) -> IncomingMigration:
    """What a site wants brought."""
    return IncomingMigration(number=number, source=NODE, url="https://192.0.2.1:7444", machine=machine(uuid, ends=NOW))


WANTED = machine(A, ends=NOW)
RESTING = machine(A, ends=NOW, want=DesiredStatus.SUSPENDED)
Todo = tuple[str, dict[str, Any], list[Any], tuple[ActionKind, str] | None]
TABLE: list[Todo] = [
    (
        "it rests, and is to be given",
        {"machines": (RESTING.model_copy(update={"giving": GIVING}),)},
        [record(A, **SUSPENDED)],
        (ActionKind.GIVE, ""),
    ),
    (
        "it is locked for that already",
        {"machines": (RESTING.model_copy(update={"giving": GIVING}),)},
        [record(A, giving=GIVING, **SUSPENDED)],
        None,
    ),
    (
        "it is locked for an earlier attempt",
        {"machines": (RESTING.model_copy(update={"giving": GIVING}),)},
        [record(A, giving=OutgoingMigration(number=2, to=B), **SUSPENDED)],
        (ActionKind.GIVE, ""),
    ),
    ("it stays after all", {"machines": (RESTING,)}, [record(A, giving=GIVING, **SUSPENDED)], (ActionKind.RETAIN, "")),
    ("it is to be brought", {"incoming": (incoming(),)}, [], (ActionKind.TAKE, "")),
    ("it is here and waits", {"incoming": (incoming(),)}, [record(A, arriving=3, **SUSPENDED)], None),
    ("it is on its way", {"incoming": (incoming(),)}, [record(A, MachineState.STAGING, arriving=3)], None),
    (
        "it was brought by an earlier attempt",
        {"incoming": (incoming(4),)},
        [record(A, arriving=3, **SUSPENDED)],
        (ActionKind.END, "its site does not know it any more"),
    ),
    (
        "nobody wants it here now",
        {},
        [record(A, arriving=3, **SUSPENDED)],
        (ActionKind.END, "its site does not know it any more"),
    ),
    (
        "it is this node's now, and runs at the next look",
        {"machines": (WANTED.model_copy(update={"moved": 3}),)},
        [record(A, arriving=3, **SUSPENDED)],
        (ActionKind.ADOPT, ""),
    ),
    (
        "the site speaks of another move",
        {"machines": (WANTED.model_copy(update={"moved": 4}),)},
        [record(A, arriving=3, **SUSPENDED)],
        (ActionKind.END, "its site does not know it any more"),
    ),
    (
        "it goes on",
        {"machines": (WANTED.model_copy(update={"moved": 3}),)},
        [record(A, **SUSPENDED)],
        (ActionKind.START, ""),
    ),
    (
        "what was brought is lost: it is never made anew",
        {"machines": (WANTED.model_copy(update={"moved": 3}),)},
        [],
        (ActionKind.REPORT_LOST, ""),
    ),
    ("one that never moved is made", {"machines": (WANTED,)}, [], (ActionKind.MAKE, "")),
    (
        "it was given, and is another node's now",
        {},
        [record(A, giving=GIVING, **SUSPENDED)],
        (ActionKind.END, "it was moved to another node"),
    ),
]


@pytest.mark.parametrize(("why", "wanted", "here", "todo"), TABLE, ids=[why for why, *_ in TABLE])
def test_what_a_node_does_about_its_part(
    why: str, wanted: dict[str, Any], here: list[Any], todo: tuple[ActionKind, str] | None
) -> None:
    """A machine runs on a node only if the site says that it is that node's; what is locked or lent runs nowhere."""
    expected = []
    if todo is not None:
        kind, reason = todo
        (machine,) = wanted.get("machines", (None,))
        (brought,) = wanted.get("incoming", (None,))
        expected = [Action(kind, A, reason, wanted=machine, incoming=brought if kind is ActionKind.TAKE else None)]
    assert list(plan_actions(DesiredState(revision=1, **wanted), here)) == expected, why
