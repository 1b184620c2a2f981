"""The audit log: what is written is found again, and every way to change the past is seen."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from signer.audit_log import MARK_EVERY, ZERO_HASH, AuditHead, AuditHeadPin, AuditLog, read_log, verify_log
from signer.documents import canonical
from signer.errors import AuditBroken, AuditUnwritable

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def log_of(path: Path, count: int = 6) -> Path:
    """A log with so many entries."""
    log = AuditLog(path, NOW)
    for number in range(count):
        log.append("decision", {"number": number, "nothing": None, "texts": ["ä", "\n"]}, NOW)
    log.close()
    return path


def test_the_form_is_the_documented_one(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log", NOW)
    head = log.append("publish", {"title": "star/worker@1.0"}, NOW)
    log.close()

    line = (
        b'{"at":"2026-11-22T12:00:00Z","data":{"title":"star/worker@1.0"},"kind":"publish",'
        b'"prev":"' + ZERO_HASH.encode() + b'","seq":1}\n'
    )
    assert (tmp_path / "log").read_bytes() == line
    assert head == AuditHead(seq=1, sha256=hashlib.sha256(line).hexdigest())
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    command = ["bash", "-c", 'tail -n 1 "$1" | sha256sum', "bash", str(tmp_path / "log")]
    stock = subprocess.run(command, capture_output=True, text=True, check=True)
    assert stock.stdout.split()[0] == head.sha256


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = log_of(tmp_path / "log")

    assert [entry.data["number"] for entry in read_log(path)] == list(range(6))
    assert next(read_log(path)).data == {"number": 0, "nothing": None, "texts": ["ä", "\n"]}
    report = verify_log(path)
    assert (report.intact, report.entries, report.torn, report.repairs) == (True, 6, 0, 0)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def rechained(found: list[bytes]) -> list[bytes]:
    """What a careful forger does: every hash and number after the change made right again."""
    last, made = ZERO_HASH, []
    for number, line in enumerate(found, 1):
        entry = json.loads(line) | {"prev": last, "seq": number}
        made.append(canonical(entry) + b"\n")
        last = hashlib.sha256(made[-1]).hexdigest()
    return made


ATTACKS: list[tuple[str, Callable[[list[bytes]], list[bytes]], str]] = [
    ("a fact is edited", lambda x: [x[0], x[1].replace(b"1", b"7", 1), *x[2:]], "line 2"),
    (
        "one letter of a date",
        lambda x: [x[0], x[1].replace(b"2026", b"2025"), *x[2:]],
        "line 3: does not continue the chain",
    ),
    ("an entry is dropped", lambda x: [*x[:2], *x[3:]], "line 3: does not continue the chain"),
    ("the first is dropped", lambda x: x[1:], "line 1: does not continue the chain"),
    ("two are swapped", lambda x: [x[0], x[2], x[1], *x[3:]], "line 2: has the entry number 3"),
    ("one stands twice", lambda x: [*x[:2], x[1], *x[2:]], "line 3: has the entry number 2"),
    ("one is put in", lambda x: [*x[:2], x[0].replace(b'"number":0', b'"number":9'), *x[2:]], "line 3"),
    ("an entry becomes empty", lambda x: [x[0], b"\n", *x[2:]], "line 2"),
    ("white space is put in", lambda x: [x[0], x[1].replace(b",", b", ", 1), *x[2:]], "canonical form"),
    ("an unknown member", lambda x: [x[0], x[1].replace(b'"kind"', b'"kinds"'), *x[2:]], "line 2"),
    ("the last is edited", lambda x: [*x[:5], x[5].replace(b":5", b":6")], "line 6: differs from the entry that"),
    ("the end is cut off", lambda x: x[:4], "the log is truncated: it has 4 entries"),
    ("all is cut off", lambda _: [], "the log is truncated: it has 0 entries"),
    (
        "all hashes are made right after an edit",
        lambda x: rechained([x[0], x[1].replace(b'"number":1', b'"number":7'), *x[2:]]),
        "line 6: differs from the entry that",
    ),
    ("a line feed is taken away", lambda x: [x[0].rstrip(b"\n"), *x[1:]], "line 1"),
    ("a line without end", lambda x: [*x[:3], b"x" * (5 << 20), *x[3:]], "line 4: longer than any entry"),
]


@pytest.mark.parametrize(("attack", "change", "says"), ATTACKS, ids=[attack[0] for attack in ATTACKS])
def test_the_past_cannot_be_changed_unseen(
    attack: str, change: Callable[[list[bytes]], list[bytes]], says: str, tmp_path: Path
) -> None:
    path = log_of(tmp_path / "log")
    head = verify_log(path).head
    assert head is not None
    changed = change(lines(path))
    assert changed != lines(path), attack
    path.write_bytes(b"".join(changed))

    report = verify_log(path, [AuditHeadPin(head, "a receipt")])

    assert not report.intact
    assert any(says in fault for fault in report.faults), report.faults


def test_an_end_that_nobody_remembers_is_the_limit(tmp_path: Path) -> None:
    """The documentation says so; should it ever be found without, the documentation is to be changed."""
    path = log_of(tmp_path / "log")
    path.write_bytes(b"".join(lines(path)[:4]))

    assert verify_log(path).intact


def test_a_torn_line_is_cut_off_and_told(tmp_path: Path) -> None:
    path = log_of(tmp_path / "log", 3)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at":"2026')
    assert verify_log(path).torn == 11

    log = AuditLog(path, NOW)
    log.append("end", {}, NOW)
    log.close()

    assert path.read_bytes().startswith(whole)
    assert [entry.kind for entry in read_log(path)][3:] == ["repaired", "end"]
    repaired = list(read_log(path))[3]
    assert repaired.data == {"bytes": 11, "sha256": hashlib.sha256(b'{"at":"2026').hexdigest()}
    report = verify_log(path)
    assert (report.intact, report.entries, report.repairs, report.torn) == (True, 5, 1, 0)


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_log_of_nothing_but_a_torn_line(cut: int, tmp_path: Path) -> None:
    path = log_of(tmp_path / "log", 1)
    path.write_bytes(path.read_bytes()[:-cut])

    AuditLog(path, NOW).close()

    assert [entry.kind for entry in read_log(path)] == ["repaired"]
    assert verify_log(path).intact


def test_a_changed_end_is_not_written_on(tmp_path: Path) -> None:
    path = log_of(tmp_path / "log")
    for content in (b"not an entry\n", lines(path)[0]):
        path.write_bytes(b"".join(lines(path)) + content)
        with pytest.raises(AuditBroken, match="partita audit verify"):
            AuditLog(path, NOW)


def test_a_log_cut_off_under_our_hands_is_noticed(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log", NOW)
    log.append("end", {}, NOW)
    (tmp_path / "log").write_bytes(b"")

    with pytest.raises(AuditBroken, match="truncated while it was open"):
        log.append("end", {}, NOW)
    log.close()


def test_threads_and_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs = [AuditLog(path, NOW), AuditLog(path, NOW)]
    program = (
        "import sys, datetime, pathlib; from signer.audit_log import AuditLog; now = datetime.datetime.now(datetime.UTC)\n"
        "log = AuditLog(pathlib.Path(sys.argv[1]), now)\nfor n in range(20): log.append('end', {'n': n}, now)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(path)])
    threads = [
        threading.Thread(target=lambda log=log: [log.append("end", {"n": n}, NOW) for n in range(20)])
        for log in logs
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait(60) == 0
    for log in logs:
        log.close()

    report = verify_log(path)
    assert report.intact, report.faults
    assert report.entries == 100


@pytest.mark.parametrize("after", [0.05, 0.15, 0.3])
def test_a_kill_loses_nothing_that_was_acknowledged(after: float, tmp_path: Path) -> None:
    path = tmp_path / "log"
    program = (
        "import sys, datetime, pathlib; from signer.audit_log import AuditLog; now = datetime.datetime.now(datetime.UTC)\n"
        "log = AuditLog(pathlib.Path(sys.argv[1]), now)\n"
        "while True: print(log.append('end', {'text': 'x' * 3000}, now).seq, flush=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"1\n"
    time.sleep(after)
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = [int(line) for line in writer.stdout.read().split()]
    writer.stdout.close()
    writer.wait()

    AuditLog(path, NOW).close()

    report = verify_log(path)
    assert report.intact, report.faults
    assert report.entries >= max(acknowledged, default=1)


def test_a_full_disk_leaves_the_log_whole(tmp_path: Path) -> None:
    """/dev/full takes nothing: the entry is not acknowledged, and nothing is believed to be there."""
    program = (
        "import sys, resource, signal, datetime, pathlib; from signer.audit_log import AuditLog\n"
        "from signer.errors import AuditUnwritable\n"
        "now = datetime.datetime.now(datetime.UTC); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = AuditLog(pathlib.Path(sys.argv[1]), now); log.append('end', {'text': 'x' * 500}, now)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try: log.append('end', {'text': 'x' * 500}, now)\n"
        "except AuditUnwritable as exc: print(exc)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "log.append('end', {}, now)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log")], capture_output=True, text=True, check=True
    )
    assert "the audit log cannot be written: File too large" in said.stdout
    report = verify_log(tmp_path / "log")
    assert (report.intact, report.entries, report.torn) == (True, 2, 0)


@pytest.mark.parametrize(
    ("kind", "data"), [("Publish", {}), ("", {}), ("end", {"number": 1.5}), ("end", {"number": 2**60})]
)
def test_what_no_reader_would_take_is_not_written(kind: str, data: dict[str, object], tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log", NOW)
    with pytest.raises(Exception, match=r".+"):
        log.append(kind, data, NOW)
    log.append("end", {}, NOW)
    log.close()
    assert verify_log(tmp_path / "log").intact
    assert [entry.kind for entry in read_log(tmp_path / "log")] == ["end"]


def test_pages_are_found_from_the_middle(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log", NOW)
    for number in range(3 * MARK_EVERY + 7):
        log.append("endorse" if number % 2 else "publish", {}, NOW)
    again = AuditLog(tmp_path / "log", NOW)  # knows its marks from reading
    for one in (log, again):
        assert [entry.seq for entry in one.entries(MARK_EVERY - 2, 5)] == list(range(MARK_EVERY - 1, MARK_EVERY + 4))
        assert [entry.seq for entry in one.entries(2 * MARK_EVERY, 2, {"endorse"})] == [
            2 * MARK_EVERY + 2,
            2 * MARK_EVERY + 4,
        ]
        assert one.entries(10**6, 5) == []
        one.close()


def test_heads_are_written_and_read() -> None:
    head = AuditHead(seq=12, sha256="ab" * 32)
    assert AuditHead.parse(str(head)) == head
    for text in ("", "12", "12:xyz", "x:" + "ab" * 32, "-1:" + "ab" * 32, "²:" + "ab" * 32):
        with pytest.raises(ValueError, match=r".+"):
            AuditHead.parse(text)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditUnwritable, match="cannot be opened"):
        AuditLog(tmp_path / "file" / "log", NOW)
    with pytest.raises(AuditUnwritable, match="cannot be read"):
        verify_log(tmp_path / "none")
