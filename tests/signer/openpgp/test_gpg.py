"""The limits under which gpg runs: what it may write and how long it may take."""

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from signer.errors import KeyUnusable, SignatureError
from signer.openpgp.gpg import GPG_LIMITS
from signer.openpgp.verifier import OpenPgpExaminer, read_keys
from tests.support.openpgp_people import People


def test_a_machine_without_gpg_says_so(people: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KeyUnusable, match="gpg cannot be run; install GnuPG"):
        read_keys(people.public["ann"])


def test_the_limits_leave_core_dumps_to_gpg() -> None:
    """Lowered from outside while gpg reads and writes that limit back, one run in some thousand dies of it."""
    assert resource.RLIMIT_CORE not in GPG_LIMITS


def test_gpg_that_writes_too_much_is_stopped(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GPG_LIMITS, resource.RLIMIT_FSIZE, 16)
    with pytest.raises(SignatureError, match=f"killed by signal {int(signal.SIGXFSZ)}"):
        read_keys(people.public["ann"])


def test_gpg_that_takes_too_long_is_stopped(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenPgpExaminer([people.public["ann"]]) as examiner:
        monkeypatch.setattr("signer.openpgp.gpg.TIMEOUT", 0.3)
        fifo = examiner._home / "fifo"
        os.mkfifo(fifo)
        before = time.monotonic()
        with pytest.raises(SignatureError, match="killed by signal 9"):
            examiner._gpg.run(["--verify", "--", str(fifo), str(fifo)])
        assert time.monotonic() - before < 60
