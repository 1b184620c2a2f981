"""Files in force: read again when they change, never by halves, and the last good one stays."""

import logging
import os
import threading
from pathlib import Path

import pytest

from deployer.errors import PolicyUnusable
from deployer.site.auth.file_in_force import ReloadingFile

reads = 0


def load(path: Path) -> str:
    """A file that says `bad` is none."""
    global reads
    reads += 1
    text = path.read_text() if path.exists() else "empty"
    if "bad" in text:
        raise PolicyUnusable(f"{path}: is bad")
    return text


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "f"
    held = ReloadingFile(file, load, "nothing")
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
    held = ReloadingFile(file, load, "nothing")
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


def test_half_a_file_does_not_come_into_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_text("whole")
    held = ReloadingFile(file, load, "nothing")
    assert held.current() == "whole"
    texts = iter(["half of i", "all of it"])

    def goes_on(_: float) -> None:
        if (text := next(texts, None)) is not None:
            file.write_text(text)

    file.write_text("ha")
    monkeypatch.setattr("deployer.site.auth.file_in_force.time.sleep", goes_on)
    assert held.current() == "all of it"


def test_a_file_that_changes_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_text("whole")
    held = ReloadingFile(file, load, "nothing")
    assert held.current() == "whole"
    counts = iter(range(1000))

    def goes_on(_: float) -> None:
        file.write_text("x" * next(counts))

    file.write_text("other")
    monkeypatch.setattr("deployer.site.auth.file_in_force.time.sleep", goes_on)
    assert held.current() == "whole"
    assert "changes all the time" in held.problem


def test_many_threads_see_the_same(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    held, found = ReloadingFile(file, load, "nothing"), list[str]()
    threads = [threading.Thread(target=lambda: found.append(held.current())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == ["one"] * 16
    os.utime(file, ns=(1, 1))
    assert held.current() == "one"
