"""What a swarm's download resumes from: the journal of pieces that were proved."""

import os
from pathlib import Path

import pytest

from stager.content.leaf_set import LeafSet
from stager.fetch.resume import find_leaves, read_journal, write_journal
from tests.stager.swarm.test_swarm import guide


class TestResuming:
    """What is found in a half-filled file."""

    def test_pieces_prove_themselves_and_leaves_are_believed_within_one_boot(self, tmp_path: Path) -> None:
        data = bytearray(os.urandom(10 * 65536))
        data[5 * 65536 : 6 * 65536] = bytes(65536)
        (tmp_path / "content").write_bytes(data)
        content = guide(tmp_path / "content")
        data[3 * 65536] ^= 1  # wrong on disk
        half = bytearray(10 * 65536)
        half[: 4 * 65536 + 16384] = data[: 4 * 65536 + 16384]
        half[7 * 65536 : 8 * 65536] = data[7 * 65536 : 8 * 65536]
        with (tmp_path / "incoming").open("wb") as file:
            file.write(half[: 5 * 65536])
            file.seek(7 * 65536)
            file.write(half[7 * 65536 : 8 * 65536])
            file.truncate(10 * 65536)
        journal = tmp_path / "journal"
        claimed = LeafSet(content.address)
        claimed.add(4 * 65536, 4 * 65536 + 16384)
        write_journal(journal, claimed, "this boot")
        here = find_leaves(content, tmp_path / "incoming", journal, "this boot")
        assert [piece for piece in range(10) if here.has_piece(piece)] == [0, 1, 2, 5, 7]
        assert here.as_pieces()[1] == {4: [True, False, False, False]}
        assert find_leaves(content, tmp_path / "incoming", journal, "another boot").as_pieces()[1] == {}

    @pytest.mark.parametrize("text", [b"", b"boot", b"boot\n", b"boot\n\xff\xff\xff", b"other\n\x00"])
    def test_a_journal_that_is_no_use_is_no_harm(self, tmp_path: Path, text: bytes) -> None:
        (tmp_path / "content").write_bytes(os.urandom(3 * 16384))
        (tmp_path / "journal").write_bytes(text)
        here = read_journal(tmp_path / "journal", guide(tmp_path / "content"), "boot")
        assert here.missing == 3 * 16384

    def test_a_file_that_is_not_there_is_made_as_a_hole(self, tmp_path: Path) -> None:
        (tmp_path / "content").write_bytes(os.urandom(100_000))
        content = guide(tmp_path / "content")
        assert find_leaves(content, tmp_path / "new", None, "b").missing == 100_000
        assert (tmp_path / "new").stat().st_size == 100_000
        assert (tmp_path / "new").stat().st_blocks == 0
