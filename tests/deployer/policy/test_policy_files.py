"""Files in force: read again when they change, never by halves, and the last good one stays."""

import logging
import os
import threading
from pathlib import Path

import pytest

from deployer.errors import PolicyUnusable
from deployer.policy.policy_files import reloaded_policy_file
from signer.runtime.reloaded_files import FileReader, ReloadedFiles

reads = 0


def load(path: Path, read: FileReader) -> str:
    """A file that says `bad` is none."""
    global reads
    reads += 1
    try:
        text = read(path, 1000).decode()
    except FileNotFoundError:
        text = "empty"
    if "bad" in text:
        raise PolicyUnusable(f"{path}: is bad")
    return text


def in_force(file: Path) -> ReloadedFiles[str]:
    """What the file says."""
    return reloaded_policy_file("rights", file, load, "nothing", logging.getLogger("partita.site"))


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "f"
    held = in_force(file)
    assert held.current() == "empty"
    file.write_text("one")
    assert held.current() == "one"
    before = reads
    assert held.current() == "one"
    assert reads == before, "and only then"
    fresh = tmp_path / "g"
    fresh.write_text("two")
    fresh.replace(file)
    assert held.current() == "two"
    file.unlink()
    assert held.current() == "empty", "a file that is gone allows nothing"


def test_what_is_wrong_does_not_come_into_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "f"
    file.write_text("bad")
    held = in_force(file)
    assert [held.current(), held.current()] == ["nothing", "nothing"]
    assert "is bad" in held.problem
    file.write_text("good")
    assert held.current() == "good"
    assert held.problem == ""
    caplog.clear()
    file.write_text("bad again")
    assert [held.current(), held.current()] == ["good", "good"]
    assert "is bad" in held.problem
    assert [record.levelno for record in caplog.records] == [logging.ERROR], "told once"


def test_half_a_file_does_not_come_into_force(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("whole")
    held = in_force(file)
    assert held.current() == "whole"
    texts = iter(["half of i", "all of it"])

    def goes_on(_: float) -> None:
        if (text := next(texts, None)) is not None:
            file.write_text(text)

    file.write_text("ha")
    held._sleep = goes_on
    assert held.current() == "all of it"


def test_a_file_that_changes_all_the_time(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("whole")
    held = in_force(file)
    assert held.current() == "whole"
    counts = iter(range(1000))

    def goes_on(_: float) -> None:
        file.write_text("x" * next(counts))

    file.write_text("other")
    held._sleep = goes_on
    assert held.current() == "whole"
    assert "changes all the time" in held.problem


def test_many_threads_see_the_same(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    held, found = in_force(file), list[str]()
    threads = [threading.Thread(target=lambda: found.append(held.current())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == ["one"] * 16
    os.utime(file, ns=(1, 1))
    assert held.current() == "one"
