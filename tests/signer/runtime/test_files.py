"""Files that are replaced whole and durably, and locks that end with their process; with a fault at every step."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from signer.runtime import files

OLD, NEW = b"what was there", b"what is to be there"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with content, alone in its directory."""
    path = tmp_path / "kept"
    path.write_bytes(OLD)
    return path


def names(directory: Path) -> list[str]:
    """What lies in a directory."""
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced(file: Path) -> None:
    files.write(file, NEW)
    assert file.read_bytes() == NEW
    files.write(file, "Süßes\n")
    assert file.read_bytes() == "Süßes\n".encode()
    assert names(file.parent) == ["kept"]


def test_readers_that_have_the_old_file_open_keep_it(file: Path) -> None:
    with file.open("rb") as reader:
        files.write(file, NEW)
        assert reader.read() == OLD


def test_the_mode_is_that_of_the_new_file_less_the_umask(file: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write(file, NEW)
        assert file.stat().st_mode & 0o777 == 0o640
        files.write(file, NEW, mode=0o600)
        assert file.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_file_and_name_are_synced_in_that_order(file: Path) -> None:
    synced: list[tuple[str, bytes]] = []

    def sync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, file.read_bytes()))

    files.write(file, NEW, sync=sync)
    (fresh, at_first), (directory, at_last) = synced
    assert fresh.startswith(".kept.")
    assert fresh.endswith(".new")
    assert at_first == OLD, "what is renamed is durable before"
    assert (directory, at_last) == (file.parent.name, NEW)
    synced.clear()
    files.write(file, OLD, sync=sync, sync_name=False)
    assert len(synced) == 1
    synced.clear()
    files.write(file, NEW, sync=None)
    assert synced == []
    assert file.read_bytes() == NEW


def fails(*_: object, **__: object) -> None:
    """A full or broken disk."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _at_fsync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    calls = iter(range(1, 100))
    whole = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: fails() if next(calls) == number else whole(descriptor))


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], bytes]] = {
    "making it": (lambda patch: patch.setattr(os, "open", fails), OLD),
    "syncing it": (lambda patch: _at_fsync(patch, 1), OLD),
    "renaming it": (lambda patch: patch.setattr(Path, "replace", fails), OLD),
    "syncing the directory": (lambda patch: _at_fsync(patch, 2), NEW),
}


@pytest.mark.parametrize("step", FAULTS)
def test_a_fault_at_any_step_leaves_the_old_file_or_the_new_one(
    step: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, then = FAULTS[step]
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(OSError, match="Input/output error"):
            files.write(file, NEW)
    assert file.read_bytes() == then
    assert names(file.parent) == ["kept"]


def _write_and_raise(file: Path, fault: BaseException) -> None:
    with files.writing(file) as fresh:
        fresh.write(NEW * 10_000)
        raise fault


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_writer_that_gives_up_leaves_the_old_file(fault: BaseException, file: Path) -> None:
    with pytest.raises(type(fault)):
        _write_and_raise(file, fault)
    assert file.read_bytes() == OLD
    assert names(file.parent) == ["kept"]


def _write_and_die(path: Path, step: int) -> None:
    """Write until the process is killed, in front of the step of that number: sync, rename, sync of the directory."""
    steps = iter(range(10))

    def reached(call: Callable[..., object]) -> Callable[..., object]:
        def stepped(*arguments: object) -> object:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return stepped

    os.fsync = reached(os.fsync)  # type: ignore[assignment]
    Path.replace = reached(Path.replace)  # type: ignore[method-assign]
    files.write(path, NEW)


@pytest.mark.parametrize(("step", "then"), [(0, OLD), (1, OLD), (2, NEW)])
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new_one(step: int, then: bytes, file: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(file, step))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert file.read_bytes() == then
    files.write(file, NEW * 2)
    assert file.read_bytes() == NEW * 2, "what the kill left behind is in nobody's way"


def test_many_writers_each_write_a_whole_file(file: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=files.write, args=(file, data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert file.read_bytes() in contents
    assert names(file.parent) == ["kept"]


def test_what_is_created_replaces_nothing(file: Path) -> None:
    with pytest.raises(FileExistsError):
        files.create(file, NEW)
    assert file.read_bytes() == OLD
    made = file.with_name("made")
    files.create(made, NEW)
    assert (made.read_bytes(), made.stat().st_mode & 0o777, made.stat().st_nlink) == (NEW, 0o600, 1)
    assert names(file.parent) == ["kept", "made"]


def test_one_of_many_creators_is_first(tmp_path: Path) -> None:
    path, refused = tmp_path / "identity", list[int]()

    def create(number: int) -> None:
        try:
            files.create(path, str(number) * 10)
        except FileExistsError:
            refused.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (first,) = set(range(8)) - set(refused)
    assert path.read_text() == str(first) * 10
    assert names(tmp_path) == ["identity"]


def test_a_lock_has_one_owner_who_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.locked(path):
        with pytest.raises(files.LockHeld) as found, files.locked(path):
            pytest.fail("two have the lock")
        assert str(found.value) == f"{path}: in use by the running process {os.getpid()}"
    with files.locked(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert path.stat().st_mode & 0o777 == 0o600


HOLD = """
import sys
from pathlib import Path
from signer.runtime import files
held = files.lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(files.LockHeld, match=f"in use by the running process {child.pid}"):
            files.lock(path)
        child.kill()
        descriptor = files.lock(path, wait=True)
    assert path.read_text() == f"{os.getpid()}\n"
    os.close(descriptor)


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", list[str]()

    def second() -> None:
        with files.locked(path, wait=True):
            order.append("second")

    with files.locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_a_directory_can_be_locked(tmp_path: Path) -> None:
    one, other = (os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    try:
        files.lock_open(one)
        with pytest.raises(BlockingIOError):
            files.lock_open(other)
        files.unlock_open(one)
        files.lock_open(other)
    finally:
        os.close(one)
        os.close(other)


def test_a_place_that_cannot_be_used_is_said_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "nowhere" / "file", NEW)
    with pytest.raises(FileNotFoundError):
        files.lock(tmp_path / "nowhere" / "lock")
