"""Which disks are refused, and with which reason; that nothing is left behind; and what the child cannot do."""

import os
import random
import re
import socket
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.confining import Limits, _prison, confined
from catalog.errors import CatalogError, DiskRefused, NotFound, Unavailable
from catalog.importing import import_disk
from catalog.inspecting import Format, inspect
from tests.catalog.disks import (
    MIB,
    SECTOR,
    assembled,
    formatted,
    gpt_disk,
    identity,
    kept_whole,
    luks,
    mbr_disk,
    names,
    partitions,
    put,
    put_file,
    qcow2,
    run,
    table,
)

Scenario = Callable[[Path], Path]
"""Makes a disk in a directory and returns its path."""

BAD: list[tuple[str, Format, Scenario, type[CatalogError], str]] = []


def bad(
    sentence: str, named: Format, reason: str, error: type[CatalogError] = DiskRefused
) -> Callable[[Scenario], Scenario]:
    """Put a scenario into the table."""

    def put_in(scenario: Scenario) -> Scenario:
        BAD.append((sentence, named, scenario, error, reason))
        return scenario

    return put_in


def _qcow2(here: Path, *options: str) -> Path:
    return qcow2(gpt_disk(here / "raw"), here / "disk", *options)


def _patched(here: Path, offset: int, content: bytes) -> Path:
    disk = _qcow2(here)
    put(disk, offset, content)
    return disk


@bad("a backing file names any file of the host", "qcow2", "backing file")
def _(here: Path) -> Path:
    gpt_disk(here / "base")
    run("qemu-img", "create", "-f", "qcow2", "-b", here / "base", "-F", "raw", here / "disk")
    return here / "disk"


@bad("a backing file named by hand, as in CVE-2015-1850", "qcow2", "backing file")
def _(here: Path) -> Path:
    disk = _patched(here, 8, struct.pack(">QI", 600, 11))
    put(disk, 600, b"/etc/passwd")
    return disk


@bad("an external data file, as in CVE-2024-32498", "qcow2", "data file|data_file")
def _(here: Path) -> Path:
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={here}/data", here / "disk", "32M")
    return here / "disk"


@bad("an external raw data file", "qcow2", "data file|data_file")
def _(here: Path) -> Path:
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={here}/data,data_file_raw=on", here / "disk", "32M")
    return here / "disk"


@bad("encryption inside qcow2", "qcow2", "encrypted")
def _(here: Path) -> Path:
    return _patched(here, 32, struct.pack(">I", 2))


@bad("the old AES encryption of qcow2", "qcow2", "encrypted")
def _(here: Path) -> Path:
    return _patched(here, 32, struct.pack(">I", 1))


@bad("an internal snapshot", "qcow2", "snapshot")
def _(here: Path) -> Path:
    run("qemu-img", "snapshot", "-c", "before", _qcow2(here))
    return here / "disk"


@bad("a PiB in a small file", "qcow2", "claims 1024.0 TiB, more than the 2.0 TiB allowed")
def _(here: Path) -> Path:
    run("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=2M", here / "disk", "1P")
    return here / "disk"


@bad("a size beyond all numbers", "qcow2", "more than the 2.0 TiB allowed")
def _(here: Path) -> Path:
    return _patched(here, 24, b"\xff" * 8)


@bad("a sparse raw file of 3 TiB", "raw", "3.0 TiB")
def _(here: Path) -> Path:
    with gpt_disk(here / "disk").open("r+b") as file:
        file.truncate(3 << 40)
    return here / "disk"


@bad("a size that two readers read differently", "qcow2", "qemu-img|L1|overflow|large|differently")
def _(here: Path) -> Path:
    return _patched(here, 24, struct.pack(">Q", 1 << 40))


@bad("a qcow2 cut in the middle", "qcow2", "damaged or truncated")
def _(here: Path) -> Path:
    disk = _qcow2(here)
    os.truncate(disk, disk.stat().st_size // 2)
    return disk


@bad("a qcow2 cut inside its header", "qcow2", "no complete qcow2 header|was named qcow2")
def _(here: Path) -> Path:
    disk = _qcow2(here)
    os.truncate(disk, 60)
    return disk


@bad("tables that point into each other", "qcow2", "damaged|qemu-img")
def _(here: Path) -> Path:
    disk = _qcow2(here)
    (l1,) = struct.unpack(">Q", disk.read_bytes()[40:48])
    put(disk, l1, struct.pack(">Q", 1 << 63 | l1))
    return disk


@bad("a disk that was not closed", "qcow2", "marked dirty")
def _(here: Path) -> Path:
    return _patched(here, 72, struct.pack(">Q", 1))


@bad("a disk that is marked corrupt", "qcow2", "marked corrupt")
def _(here: Path) -> Path:
    return _patched(here, 72, struct.pack(">Q", 2))


@bad("features of the future", "qcow2", "features that are not read here")
def _(here: Path) -> Path:
    return _patched(here, 72, struct.pack(">Q", 1 << 5))


@bad("features that qemu knows and the inspector does not", "qcow2", "features that are not read here")
def _(here: Path) -> Path:
    return _qcow2(here, "-o", "extended_l2=on,cluster_size=128k")


@bad("features of the far future", "qcow2", "features that are not read here")
def _(here: Path) -> Path:
    return _patched(here, 72, struct.pack(">Q", 1 << 63))


@bad("the first version of qcow", "qcow2", "version 1")
def _(here: Path) -> Path:
    return _patched(here, 4, struct.pack(">I", 1))


@bad("absurd clusters", "qcow2", r"clusters of 2\^40")
def _(here: Path) -> Path:
    return _patched(here, 20, struct.pack(">I", 40))


@bad("a virtual size of nothing", "qcow2", "virtual size of 0")
def _(here: Path) -> Path:
    return _patched(here, 24, bytes(8))


@bad("half a sector", "qcow2", "not a multiple of 512")
def _(here: Path) -> Path:
    return _patched(here, 24, struct.pack(">Q", 32 * MIB - 100))


@bad(
    "a qcow2 that is called raw, as in CVE-2026-24708", "raw", "named raw, and its content is qcow2; say --format qcow2"
)
def _(here: Path) -> Path:
    return _qcow2(here)


@bad("a raw disk that is called qcow2", "qcow2", "named qcow2, and its content is gpt; say --format raw")
def _(here: Path) -> Path:
    return gpt_disk(here / "disk")


@bad("a VMDK descriptor that names a file of the host, as in CVE-2022-47951", "raw", "content is vmdk")
def _(here: Path) -> Path:
    text = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    (here / "disk").write_text((text + 'RW 4 FLAT "/etc/passwd" 0\n').ljust(2048, "\n"))
    return here / "disk"


def _foreign(format_: str) -> Scenario:
    def scenario(here: Path) -> Path:
        run("qemu-img", "create", "-q", "-f", format_, here / "disk", "8M")
        return here / "disk"

    return scenario


for _format, _seen in (("vmdk", "vmdk"), ("vdi", "vdi"), ("vhdx", "vhdx"), ("vpc", "vhd"), ("qed", "qed")):
    bad(f"a foreign format: {_format}", "raw", f"content is {_seen}; convert it to raw")(_foreign(_format))


@bad("an encrypted volume", "raw", "content is luks")
def _(here: Path) -> Path:
    return luks(here / "disk")


def _iso(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(MIB)
    descriptor = b"\1CD001\1\0" + bytes(72) + struct.pack("<I", 512) + struct.pack(">I", 512)
    put(path, 32 << 10, descriptor.ljust(120, b"\0") + bytes(8) + struct.pack("<H", 2048) + struct.pack(">H", 2048))
    put(path, 34 << 10, b"\xffCD001\1")
    return path


@bad("an ISO 9660 image", "raw", "content is iso")
def _(here: Path) -> Path:
    return _iso(here / "disk")


@bad("a polyglot: ISO with a qcow2 header in its system area, called qcow2", "qcow2", "several formats at once")
def _(here: Path) -> Path:
    disk = _iso(here / "disk")
    (here / "x").mkdir()
    put(disk, 0, _qcow2(here / "x").read_bytes()[:512])
    return disk


@bad("the same polyglot, called raw", "raw", "several formats at once")
def _(here: Path) -> Path:
    disk = _iso(here / "disk")
    (here / "x").mkdir()
    put(disk, 0, _qcow2(here / "x").read_bytes()[:512])
    return disk


@bad("a polyglot: a partitioned disk that is an ISO as well", "raw", "several formats at once")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, 32 << 10, _iso(here / "iso").read_bytes()[32 << 10 : 36 << 10])
    return disk


@bad("an empty file", "raw", "is empty|named raw")
def _(here: Path) -> Path:
    (here / "disk").touch()
    return here / "disk"


@bad("a directory", "raw", "is a directory")
def _(here: Path) -> Path:
    (here / "disk").mkdir()
    return here / "disk"


@bad("an endless device", "raw", "device, pipe or socket")
def _(_here: Path) -> Path:
    return Path("/dev/zero")


@bad("a pipe that nobody writes to", "raw", "device, pipe or socket")
def _(here: Path) -> Path:
    os.mkfifo(here / "disk")
    return here / "disk"


@bad("a link to nothing", "raw", "is a link to nothing", NotFound)
def _(here: Path) -> Path:
    (here / "disk").symlink_to("nowhere")
    return here / "disk"


@bad("a file that is not there", "raw", "does not exist", NotFound)
def _(here: Path) -> Path:
    return here / "disk"


@bad("an address in place of a file name", "raw", "does not exist", NotFound)
def _(_here: Path) -> Path:
    return Path('json:{"driver":"nbd","host":"127.0.0.1"}')


@bad("no table at all", "raw", "neither a GPT nor an MBR")
def _(here: Path) -> Path:
    with (here / "disk").open("wb") as file:
        file.truncate(8 * MIB)
    return here / "disk"


@bad("a bare filesystem", "raw", 'table = "none"')
def _(here: Path) -> Path:
    return formatted(here / "disk", 8 * MIB, "mke2fs", "-q", "-t", "ext4")


@bad("a file of odd size", "raw", "not a multiple of 512")
def _(here: Path) -> Path:
    with gpt_disk(here / "disk").open("ab") as file:
        file.write(b"x")
    return here / "disk"


@bad("a table without partitions", "raw", "empty")
def _(here: Path) -> Path:
    return table(here / "disk", 8 * MIB, "label: gpt\n")


@bad("a hybrid MBR: two tables describe one disk", "raw", "extra partitions|hybrid")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, 446 + 16, struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x83, 0, 0, 0, 2048, 2048))
    return disk


def _reforge(disk: Path, lba: int, change: Callable[[bytearray, bytearray], None]) -> None:
    """Change a GPT copy and make its checksums right again."""
    data = disk.read_bytes()
    header = bytearray(data[lba * SECTOR : lba * SECTOR + 92])
    (at,) = struct.unpack_from("<Q", header, 72)
    entries = bytearray(data[at * SECTOR : at * SECTOR + 128 * 128])
    change(header, entries)
    struct.pack_into("<I", header, 88, zlib.crc32(entries))
    struct.pack_into("<I", header, 16, 0)
    struct.pack_into("<I", header, 16, zlib.crc32(header))
    put(disk, at * SECTOR, bytes(entries))
    put(disk, lba * SECTOR, bytes(header))


def _both(disk: Path, change: Callable[[bytearray, bytearray], None]) -> Path:
    for lba in (1, disk.stat().st_size // SECTOR - 1):
        _reforge(disk, lba, change)
    return disk


@bad("a header with a wrong checksum", "raw", "primary header .* wrong checksum")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, SECTOR + 40, b"\x99")
    return disk


@bad("a backup header with a wrong checksum", "raw", "backup header .* wrong checksum")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, 32 * MIB - SECTOR + 40, b"\x99")
    return disk


@bad("entries with a wrong checksum", "raw", "entries with a wrong checksum")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, 2 * SECTOR + 40, b"\x99")
    return disk


@bad("a disk that was grown and lost its backup", "raw", "has grown")
def _(here: Path) -> Path:
    os.truncate(gpt_disk(here / "disk"), 48 * MIB)
    return here / "disk"


@bad("a disk that was cut", "raw", "is truncated")
def _(here: Path) -> Path:
    os.truncate(gpt_disk(here / "disk"), 24 * MIB)
    return here / "disk"


@bad("two tables, each right by itself, that differ", "raw", "differ")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    _reforge(disk, 1, lambda _, entries: struct.pack_into("<Q", entries, 128 + 40, 36863 - 100))
    return disk


@bad("partitions that overlap", "raw", "overlap")
def _(here: Path) -> Path:
    return _both(gpt_disk(here / "disk"), lambda _, entries: struct.pack_into("<Q", entries, 128 + 32, 2050))


@bad("a partition after the end of the disk", "raw", "usable")
def _(here: Path) -> Path:
    return _both(gpt_disk(here / "disk"), lambda _, entries: struct.pack_into("<Q", entries, 256 + 40, 1 << 40))


@bad("a partition over the table itself", "raw", "usable")
def _(here: Path) -> Path:
    return _both(gpt_disk(here / "disk"), lambda _, entries: struct.pack_into("<Q", entries, 32, 3))


@bad("two partitions with one UUID", "raw", "same UUID")
def _(here: Path) -> Path:
    def twin(_: bytearray, entries: bytearray) -> None:
        entries[128 + 16 : 128 + 32] = entries[16:32]

    return _both(gpt_disk(here / "disk"), twin)


@bad("logical partitions in a circle", "raw", "chain|broken")
def _(here: Path) -> Path:
    disk = mbr_disk(here / "disk")
    second = partitions(disk)[-1]["start"] - 2048
    data = disk.read_bytes()
    at = next(
        lba
        for lba in range(10240, 24576)
        if data[lba * SECTOR + 510 : lba * SECTOR + 512] == b"\x55\xaa" and lba > 10240
    )
    put(disk, at * SECTOR + 462, struct.pack("<BBBBBBBBII", 0, 0, 0, 0, 5, 0, 0, 0, 0, second))
    return disk


@bad("MBR partitions that overlap", "raw", "overlap")
def _(here: Path) -> Path:
    disk = mbr_disk(here / "disk")
    put(disk, 446 + 12, struct.pack("<I", 20000))
    return disk


@bad("an MBR partition after the end of the disk", "raw", "can lie in|invalid")
def _(here: Path) -> Path:
    disk = mbr_disk(here / "disk")
    put(disk, 446 + 8, struct.pack("<I", 1 << 30))
    return disk


@bad("more bytes between partitions than any boot loader has", "raw", "outside every partition")
def _(here: Path) -> Path:
    disk = table(here / "disk", 100 * MIB, "label: gpt\nstart=198656, size=2048, name=last\n")
    put(disk, 2 * MIB, random.Random(1).randbytes(MIB) * 70)
    return disk


@pytest.mark.parametrize(
    ("named", "scenario", "error", "reason"),
    [pytest.param(*row[1:], id=row[0]) for row in BAD],
)
def test_refused(tmp_path: Path, named: Format, scenario: Scenario, error: type[CatalogError], reason: str) -> None:
    """Each bad disk is refused for its own reason, and nothing stays where the image would have been."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with pytest.raises(error, match=reason):
        import_disk(scenario(here), named, identity(), there / "image", kept_whole(tmp_path))
    assert names(there) == []


def test_the_corpus_is_large_enough() -> None:
    """The issue asks for 30 and more."""
    assert len(BAD) >= 50


def _mixed(here: Path) -> Path:
    """Swap and unused filesystems, on a disk that also has data."""
    disk = table(
        here / "disk",
        80 * MIB,
        "label: gpt\nsize=8MiB, name=data\nsize=16MiB, name=swap\nsize=16MiB, name=ext4\nsize=16MiB, name=vfat\n",
    )
    places = [part["start"] * SECTOR for part in partitions(disk)]
    put(disk, places[0], random.Random(5).randbytes(200_000))
    put_file(disk, places[1], formatted(here / "s", 16 * MIB, "mkswap", "-q"))
    put_file(disk, places[2], formatted(here / "e", 16 * MIB, "mke2fs", "-q", "-t", "ext4"))
    put_file(disk, places[3], formatted(here / "v", 16 * MIB, "mkfs.vfat"))
    return disk


def _v2(here: Path) -> Path:
    return _qcow2(here, "-o", "compat=0.10")


def _odd_name(here: Path) -> Path:
    return gpt_disk(here / 'json:{"file.filename":"x"}')


GOOD: list[tuple[str, Format, Scenario]] = [
    ("raw with a GPT", "raw", lambda here: gpt_disk(here / "disk")),
    ("raw with a GPT and no boot code", "raw", lambda here: gpt_disk(here / "disk", boot=False)),
    ("raw with an MBR and logical partitions", "raw", lambda here: mbr_disk(here / "disk")),
    ("raw with swap and unused filesystems", "raw", _mixed),
    ("raw under a name that is an address to qemu", "raw", _odd_name),
    ("qcow2 version 3", "qcow2", _qcow2),
    ("qcow2 version 2", "qcow2", _v2),
    ("qcow2 with compressed clusters", "qcow2", lambda here: _qcow2(here, "-c")),
    ("qcow2 with zstd", "qcow2", lambda here: _qcow2(here, "-c", "-o", "compression_type=zstd")),
    ("qcow2 with an MBR", "qcow2", lambda here: qcow2(mbr_disk(here / "raw"), here / "disk")),
]


@pytest.mark.parametrize(("named", "scenario"), [pytest.param(*row[1:], id=row[0]) for row in GOOD])
def test_accepted_and_given_back_byte_for_byte(tmp_path: Path, named: Format, scenario: Scenario) -> None:
    """Each good disk is imported, and its image assembles to the very disk."""
    disk = scenario(tmp_path)
    before = disk.read_bytes()
    made = import_disk(disk, named, identity(), tmp_path / "image", kept_whole(tmp_path))
    raw = tmp_path / "back"
    run("qemu-img", "convert", "-f", named, "-O", "raw", disk.absolute(), raw)
    assert assembled(made.bundle) == raw.read_bytes()
    assert disk.read_bytes() == before


def test_the_size_cap_is_an_option(tmp_path: Path) -> None:
    """A site's publisher may demand less."""
    with pytest.raises(DiskRefused, match=r"claims 32.0 MiB, more than the 16.0 MiB allowed; see --max-size"):
        inspect(gpt_disk(tmp_path / "disk"), "raw", max_size=16 * MIB)


ATTEMPTS = (
    (
        "it reaches no network",
        "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
        "refused|unreachable",
    ),
    ("it sees no file of the host", "open({secret!r})", "No such file"),
    ("it does not see who lives here", "open('/etc/passwd')", "No such file"),
    ("it cannot write what it reads", "open('/disk', 'r+b')", "Read-only|Permission"),
    ("it gets no more memory", "bytearray(2 << 30)", "MemoryError"),
    ("it writes no large file", "open('/scratch/x', 'wb').write(bytes(8 << 20))", "File too large"),
    ("it fills no disk", "[open(f'/scratch/{{i}}', 'wb').write(bytes(1 << 20)) for i in range(8)]", "No space"),
    (
        "it sees no other process",
        "import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) > 4",
        "Assertion",
    ),
)


@pytest.mark.parametrize(("attempt", "answer"), [pytest.param(*row[1:], id=row[0]) for row in ATTEMPTS])
def test_what_a_child_that_was_taken_over_cannot_do(tmp_path: Path, attempt: str, answer: str) -> None:
    """The child's code is the attacker's here; each of these works outside of the confinement."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "disk").write_bytes(bytes(512))
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = attempt.format(port=server.getsockname()[1], secret=str(tmp_path / "secret"))
        outcome = confined(
            ["/usr/bin/python3", "-c", code],
            reads={"/disk": tmp_path / "disk"},
            limits=Limits(file_size=4 * MIB, scratch=4 * MIB),
        )
    assert outcome.code != 0
    assert re.search(answer, outcome.complaint), outcome.complaint


def test_a_child_that_never_ends_is_ended(tmp_path: Path) -> None:
    """By the clock, by the processor's time, and by the amount that it prints."""
    with pytest.raises(DiskRefused, match="took more than the 1 s allowed"):
        confined(["sleep", "60"], reads={}, limits=Limits(wall=1))
    assert confined(["sh", "-c", "while :; do :; done"], reads={}, limits=Limits(cpu=1)).code != 0
    with pytest.raises(DiskRefused, match="takes more than the"):
        confined(["cat", "/dev/zero"], reads={})


def test_a_report_from_a_child_is_not_believed_blindly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the inspector prints is read strictly: here it is another program that prints nonsense."""
    liar = tmp_path / "liar.py"
    liar.write_text('print(\'{"size": 1, "size": 2}\')')
    monkeypatch.setattr("catalog.inspector_child.__file__", str(liar))
    with pytest.raises(DiskRefused, match="makes no sense"):
        inspect(gpt_disk(tmp_path / "disk"), "raw")


def test_without_confinement_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bubblewrap, or a kernel that does not let it: a refusal that says what to do, never a look without it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="install bubblewrap"):
        _prison.__wrapped__()
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    with pytest.raises(Unavailable, match=r"No permissions to create new namespace\); allow user namespaces"):
        _prison.__wrapped__()


def test_limits_fit_under_those_of_the_caller() -> None:
    """A caller that may do less itself can still confine: nothing is raised above what it has."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from catalog.confining import confined; assert confined(['true'], reads={}).code == 0"
    )
    run(sys.executable, "-c", code)
