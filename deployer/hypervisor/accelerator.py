"""Whether guests really run under KVM here: found out by running one, with a deadline, and remembered.

A /dev/kvm that opens and creates a VM may still hang every guest that switches paging on (nested virtualization without
the hardware's help). The probe is a firmware image of 200 bytes: it goes through protected mode into long mode with
paging, counts to a million in memory, and ends QEMU through the isa-debug-exit device. A guest that hangs is killed.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from deployer.errors import BackendFailed
from deployer.machine.spec import Virt
from signer.documents import Document, canonical, parse
from signer.errors import DocumentError
from signer.runtime import files

DEADLINE = 3.0
"""Seconds. A guest that runs ends after 0.1 s; three allow for a machine under load."""

DEVICE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ROM_SIZE = 64 << 10
EXIT_CODE = 35
"""What QEMU ends with when 0x11 is written to isa-debug-exit: (0x11 << 1) | 1."""

# 16-bit: lgdt cs:[gdtr]; cr0.PE = 1; far jump. 32-bit: segments, stack; page tables at 0x1000 that map the first 2 MiB
# onto themselves; cr4.PAE, cr3, EFER.LME, cr0.PG; far jump. 64-bit: a million additions written to 0x9000; cpuid;
# out 0xf4, 0x11; hlt. Then the GDT (null, 32-bit code, data, 64-bit code) and its pointer.
_CODE = bytes.fromhex(
    "fa2e660f0116c8000f20c00c010f22c066ea18000f00080066b810008ed88ec08ed0bc0080000031c0bf00100000b9000c0000f3abc7050010"
    "000003200000c7050020000003300000c70500300000830000000f20e083c8200f22e0b8001000000f22d8b9800000c00f320d000100000f30"
    "0f20c00d000000800f22c0ea84000f001800b940420f0031c04801c84889042500900000ffc975f131c00fa2b011e6f4f4ebfd0f1f00000000"
    "0000000000ffff0000009acf00ffff00000092cf00ffff0000009aaf001f00a8000f00"
)
_JUMP_TO_START = bytes.fromhex("e90d00")
"""At the reset vector, 16 bytes before the end of the ROM: jmp to its first byte."""


class Accelerator(Document):
    """What machines run on, and why: "kvm", the processor's own virtualization, or "qemu", software emulation."""

    virt: Virt
    reason: str


class _Remembered(Document):
    key: str
    answer: Accelerator


def choose_accelerator(wanted: Literal["auto", "kvm", "tcg"], architecture: str, memory: Path) -> Accelerator:
    """The accelerator for a node.

    Args:
        wanted: the setting; "kvm" insists, "tcg" never tries.
        architecture: of the guests.
        memory: a file that keeps the probe's answer until the host or its QEMU changes.

    Raises:
        BackendFailed: KVM was insisted on and does not run guests.
    """
    if wanted == "tcg":
        return Accelerator(virt="qemu", reason="software emulation, as the setting deploy.accelerator says")
    if architecture != platform.machine():
        answer = Accelerator(virt="qemu", reason=f"software emulation: the guest is {architecture}, the host is not")
    else:
        answer = _remembered(emulator_path(architecture), memory)
    if wanted == "kvm" and answer.virt != "kvm":
        raise BackendFailed(f"deploy.accelerator requires KVM, which is not available: {answer.reason}; set it to auto")
    return answer


def emulator_path(architecture: str) -> Path:
    """The QEMU for an architecture; BackendFailed where it is not installed."""
    name = f"qemu-system-{architecture}"
    found = shutil.which(name)
    if found is None:
        raise BackendFailed(f"{name} is not installed; run ./dev setup, or install the package that has it")
    return Path(found)


def emulator_version(qemu: Path) -> str:
    """The emulator's name and version, such as "QEMU emulator version 7.2.22"; empty if it does not answer."""
    try:
        answer = subprocess.run([str(qemu), "--version"], capture_output=True, text=True, timeout=DEADLINE, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return re.sub(r" \(.*", "", answer.stdout.partition("\n")[0])


def processor_digest(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """A digest of what a guest sees of this computer's processor when it is handed through: model and flags (hex, 32 digits).

    Empty where the file has neither. Microcode and clock do not count.
    """
    found: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text().splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            if name in _SEEN:
                found.setdefault(name, " ".join(sorted(value.split())) if name == "flags" else value)
    except OSError:
        return ""
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:32] if found else ""


_SEEN = frozenset({"vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU part", "CPU variant"})


def probe_kvm(qemu: Path, *, device: Path = DEVICE, deadline: float = DEADLINE) -> Accelerator:
    """Run a guest under KVM and report the outcome; takes at most `deadline` seconds."""
    if platform.machine() != "x86_64":
        return Accelerator(virt="qemu", reason="software emulation: KVM is only tried out on x86_64")
    if not device.exists():
        return Accelerator(virt="qemu", reason=f"software emulation: no {device}")
    if not os.access(device, os.R_OK | os.W_OK):
        return Accelerator(virt="qemu", reason=f"software emulation: {device} may not be opened by this user")
    status = run_rom(qemu, "kvm", deadline)
    if status == EXIT_CODE:
        return Accelerator(virt="kvm", reason="KVM: a guest ran under it")
    came = f"did not end within {deadline:g} s" if status is None else f"ended with {status}"
    return Accelerator(virt="qemu", reason=f"software emulation: a guest tried out under KVM {came}")


def run_rom(qemu: Path, accelerator: str, deadline: float) -> int | None:
    """QEMU's exit code with the probe as its firmware; None when it had to be killed."""
    rom = _CODE.ljust(ROM_SIZE - 16, b"\xf4") + _JUMP_TO_START.ljust(16, b"\xf4")
    with tempfile.NamedTemporaryFile(prefix="partita-probe-") as file:
        file.write(rom)
        file.flush()
        machine = ["-machine", "pc", "-accel", accelerator, "-m", "2", "-bios", file.name]
        quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
        try:
            done = subprocess.run(
                [str(qemu), *machine, *quiet], stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline
            )
        except subprocess.TimeoutExpired:
            return None
        return done.returncode


def _remembered(qemu: Path, memory: Path) -> Accelerator:
    """The answer kept from before, if host boot, QEMU and user are the same; else a new one, which is then kept."""
    binary = qemu.resolve().stat()
    device = DEVICE.stat() if DEVICE.exists() else None
    key = ":".join(
        str(part)
        for part in (
            BOOT_ID.read_text().strip(),
            qemu.resolve(),
            binary.st_size,
            binary.st_mtime_ns,
            os.geteuid(),
            (device.st_mode, device.st_uid, device.st_gid) if device else "none",
        )
    )
    try:
        kept = parse(_Remembered, memory.read_bytes(), str(memory))
        if kept.key == key:
            return kept.answer
    except (OSError, DocumentError):
        pass  # nothing kept, or nothing usable: the probe answers again
    answer = probe_kvm(qemu)
    files.write(memory, canonical(_Remembered(key=key, answer=answer)), sync=None)
    return answer
