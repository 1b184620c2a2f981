"""The journal of an upload: torn tails, other processes, power cuts at any byte."""

import hashlib
import threading
from pathlib import Path

import pytest

from deployer.ec2.errors import Ec2RecordsUnusable
from deployer.ec2.snapshots.upload_journal import JournalHeader, UploadJournal

HEADING = JournalHeader(content="a" * 64, parent="snap-00000001", token="b" * 64)
ONE, TWO = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()


def written(path: Path) -> bytes:
    """A journal of two blocks."""
    with UploadJournal(path) as journal:
        journal.begin(HEADING)
        journal.started("snap-0123456789abcdef0")
        journal.sent(0, ONE)
        journal.sent(70, TWO)
    return path.read_bytes()


def test_what_was_noted_is_known_to_the_next(tmp_path: Path) -> None:
    written(tmp_path / "a" / "journal")
    with UploadJournal(tmp_path / "a" / "journal") as journal:
        assert journal.heading == HEADING
        assert journal.snapshot_id == "snap-0123456789abcdef0"
        assert journal.blocks == {0: ONE, 70: TWO}


def test_a_journal_cut_at_any_byte_is_what_was_whole(tmp_path: Path) -> None:
    data = written(tmp_path / "whole")
    lines = data.split(b"\n")
    for length in range(len(data)):
        path = tmp_path / "torn"
        path.write_bytes(data[:length])
        with UploadJournal(path) as journal:
            whole = data[:length].count(b"\n")
            assert (journal.heading is not None) == (whole >= 1)
            assert bool(journal.snapshot_id) == (whole >= 2)
            assert len(journal.blocks) == max(whole - 2, 0)
            assert path.read_bytes() == b"".join(line + b"\n" for line in lines[:whole])
            if whole >= 2:
                journal.sent(5, ONE)  # goes on after the last whole line
        if whole >= 2:
            with UploadJournal(path) as journal:
                assert journal.blocks[5] == ONE


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 100 + b"\n",
        b"block 5 xyz\n",
        b"block 05 " + b"0" * 64 + b"\n",
        b"block -1 " + b"0" * 64 + b"\n",
        b"block 5 " + b"0" * 63 + b"\n",
        b"snapshot snap-0123456789abcdef1\n",
        b"\n",
    ],
)
def test_what_is_no_line_ends_it(tmp_path: Path, tail: bytes) -> None:
    """A power cut may leave anything where the last lines should be."""
    data = written(tmp_path / "journal")
    (tmp_path / "journal").write_bytes(data + tail + b"block 9 " + b"0" * 64 + b"\n")
    with UploadJournal(tmp_path / "journal") as journal:
        assert journal.blocks == {0: ONE, 70: TWO}
    assert (tmp_path / "journal").read_bytes() == data


@pytest.mark.parametrize("heading", [b"{}", b'{"content":"x"}', b"block 1", b"\xff"])
def test_a_heading_that_is_none_is_nothing(tmp_path: Path, heading: bytes) -> None:
    (tmp_path / "journal").write_bytes(heading + b"\nsnapshot snap-0123456789abcdef0\n")
    with UploadJournal(tmp_path / "journal") as journal:
        assert (journal.heading, journal.snapshot_id, journal.blocks) == (None, "", {})


def test_begun_anew_is_forgotten(tmp_path: Path) -> None:
    written(tmp_path / "journal")
    with UploadJournal(tmp_path / "journal") as journal:
        journal.begin(HEADING.model_copy(update={"token": "c" * 64}))
        assert journal.blocks == {}
    with UploadJournal(tmp_path / "journal") as journal:
        assert journal.heading is not None
        assert (journal.heading.token, journal.snapshot_id, journal.blocks) == ("c" * 64, "", {})


def test_many_workers_lose_no_line(tmp_path: Path) -> None:
    with UploadJournal(tmp_path / "journal") as journal:
        journal.begin(HEADING)
        journal.started("snap-0123456789abcdef0")
        threads = [
            threading.Thread(target=lambda n=n: [journal.sent(i, ONE) for i in range(n, 400, 8)]) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with UploadJournal(tmp_path / "journal") as journal:
        assert sorted(journal.blocks) == list(range(400))


def test_a_second_one_waits_and_finds_it_finished(tmp_path: Path) -> None:
    """Whoever waited for a journal that was removed meanwhile gets a new one, not the removed file."""
    path = tmp_path / "journal"
    first = UploadJournal(path)
    first.begin(HEADING)
    got: list[object] = []

    def second() -> None:
        with UploadJournal(path) as journal:
            got.append(journal.heading)
            journal.begin(HEADING)

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    first.finish()
    thread.join(60)
    assert got == [None]
    assert path.read_bytes().count(b"\n") == 1


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Ec2RecordsUnusable, match="journal cannot be read or written"):
        UploadJournal(tmp_path / "file" / "journal")
    (tmp_path / "journal").mkdir()
    with pytest.raises(Ec2RecordsUnusable, match="journal cannot be read or written"):
        UploadJournal(tmp_path / "journal")
