"""The probe of KVM: a guest that really runs, a guest that hangs, an answer that is kept for as long as it holds."""

import shutil
import sys
from pathlib import Path

import pytest

from deployer.errors import BackendFailed
from deployer.hypervisor import accelerator as kvm
from deployer.hypervisor.accelerator import (
    EXIT_CODE,
    Accelerator,
    choose_accelerator,
    emulator_path,
    emulator_version,
    probe_kvm,
    run_rom,
)


def script(path: Path, text: str) -> Path:
    """An executable in the emulator's place."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_probe_guest_runs_to_its_end_under_emulation() -> None:
    assert run_rom(emulator_path("x86_64"), "tcg", 30) == EXIT_CODE


def test_the_answer_for_this_machine_is_the_same_as_a_guests() -> None:
    answer = probe_kvm(emulator_path("x86_64"))
    runs = kvm.DEVICE.exists() and run_rom(emulator_path("x86_64"), "kvm", kvm.DEADLINE) == EXIT_CODE
    assert answer.virt == ("kvm" if runs else "qemu")
    assert answer.reason


def test_a_guest_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    answer = probe_kvm(script(tmp_path / "qemu", "exec sleep 600"), device=Path("/dev/null"), deadline=0.3)
    assert answer == Accelerator(
        virt="qemu", reason="software emulation: a guest tried out under KVM did not end within 0.3 s"
    )


@pytest.mark.parametrize(
    ("what", "text", "device", "virt", "says"),
    [
        ("a guest that ran", f"exit {EXIT_CODE}", "/dev/null", "kvm", "a guest ran under it"),
        ("an emulator that refuses", "exit 1", "/dev/null", "qemu", "ended with 1"),
        ("a guest that crashed", "kill -SEGV $$", "/dev/null", "qemu", "ended with -11"),
        ("no device", "exit 35", "/dev/absent", "qemu", "no /dev/absent"),
    ],
)
def test_what_may_come_of_it(tmp_path: Path, what: str, text: str, device: str, virt: str, says: str) -> None:
    answer = probe_kvm(script(tmp_path / "qemu", text), device=Path(device))
    assert answer.virt == virt
    assert says in answer.reason


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An emulator on the PATH under which guests run, and a file with one line per guest."""
    places = tmp_path / "bin"
    places.mkdir()
    script(places / "qemu-system-x86_64", f"echo ran >> {tmp_path}/runs; exit {EXIT_CODE}")
    monkeypatch.setenv("PATH", f"{places}:{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setattr(kvm, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(probe_kvm, "__kwdefaults__", {"device": Path("/dev/null"), "deadline": 3.0})
    return tmp_path / "runs"


def test_the_answer_is_remembered_until_the_emulator_changes(tmp_path: Path, counting: Path) -> None:
    memory = tmp_path / "kvm.json"
    for _ in range(3):
        assert choose_accelerator("auto", "x86_64", memory).virt == "kvm"
    assert counting.read_text().count("ran") == 1
    emulator_path("x86_64").write_text(f"#!/bin/sh\nexit {EXIT_CODE} # another version\n")
    assert choose_accelerator("auto", "x86_64", memory).virt == "kvm"
    memory.write_text("{broken")
    assert choose_accelerator("kvm", "x86_64", memory).virt == "kvm"
    assert memory.read_bytes().startswith(b'{"answer"')


def test_settings_decide_first(tmp_path: Path, counting: Path) -> None:
    memory = tmp_path / "kvm.json"
    assert (
        choose_accelerator("tcg", "x86_64", memory).reason
        == "software emulation, as the setting deploy.accelerator says"
    )
    assert choose_accelerator("auto", "aarch64", memory).virt == "qemu"
    with pytest.raises(BackendFailed, match=r"requires KVM, which is not available: .* set it to auto"):
        choose_accelerator("kvm", "aarch64", memory)
    assert not counting.exists()


def test_an_emulator_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(BackendFailed, match="qemu-system-pdp11 is not installed"):
        emulator_path("pdp11")


def test_versions_are_as_the_emulator_says(tmp_path: Path) -> None:
    assert emulator_version(emulator_path("x86_64")).startswith("QEMU emulator version ")
    assert emulator_version(tmp_path / "absent") == ""
    assert emulator_version(Path(shutil.which("false") or "")) == ""
