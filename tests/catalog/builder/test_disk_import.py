"""Splitting disks: what becomes what, that nothing is lost, and that an import that fails or is killed leaves nothing."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.builder.bundle_writer import draft_bundle
from catalog.builder.disk_import import ImportOptions, import_disk
from catalog.content.indexing import index_file, verify_content
from catalog.errors import Conflict, DiskRefused, Misused, NotFound, Unavailable
from catalog.image.bundle import Bundle
from catalog.image.manifest import MAX_GAPS, FirmwareBoot, GptDisk, MbrDisk
from signer.errors import DocumentError
from tests.support.catalog.disk_images import (
    BIOS_BOOT,
    LINUX,
    MIB,
    SECTOR,
    assembled,
    formatted,
    gpt_disk,
    identity,
    kept_whole,
    mbr_disk,
    names,
    partitions,
    put,
    put_file,
    run,
    table,
)

ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


def _worker(here: Path) -> Path:
    """A whole disk as installers make it: ESP, root, swap, unused /scratch, and one of zeros."""
    disk = table(
        here / "disk",
        200 * MIB,
        f"label: gpt\nsize=16MiB, type={ESP}, name=esp\nsize=64MiB, type={LINUX}, name=root, attrs=RequiredPartition\n"
        "size=16MiB, type=swap, name=swap\nsize=32MiB, name=scratch\nsize=8MiB, name=nothing\n",
    )
    places = [part["start"] * SECTOR for part in partitions(disk)]
    (here / "tree/etc").mkdir(parents=True)
    (here / "tree/etc/os-release").write_text('NAME=X\nID=debian\nVERSION_ID="12"\n')
    put_file(disk, places[0], formatted(here / "v", 16 * MIB, "mkfs.vfat", "-F", "16"))
    put(disk, places[0] + 8 * MIB, b"a boot loader")
    put_file(disk, places[1], formatted(here / "r", 64 * MIB, "mkfs.ext4", "-q", "-d", str(here / "tree")))
    put_file(disk, places[2], formatted(here / "s", 16 * MIB, "mkswap", "-q", "-L", "sw"))
    put_file(disk, places[3], formatted(here / "e", 32 * MIB, "mkfs.ext4", "-q", "-L", "scratch"))
    return disk


def test_a_whole_disk(tmp_path: Path) -> None:
    """Content has addresses, blanks have recipes, and the maker is told which is which."""
    wishes = ImportOptions(access={"root": "read-only"}, keep=frozenset({"esp"}))
    made = import_disk(_worker(tmp_path), "raw", identity(os=None), tmp_path / "image", wishes)
    manifest = made.bundle.manifest
    (disk,) = manifest.disks
    assert isinstance(disk, GptDisk)
    esp, root, swap, scratch, nothing = disk.partitions
    assert (esp.type, esp.blank, esp.access) == ("esp", None, "copy-on-write")
    assert (root.type, root.label, root.access, root.flags) == ("linux-generic", "root", "read-only", ("required",))
    assert swap.blank is not None
    assert (swap.type, swap.blank.filesystem, swap.blank.label, swap.blank.size) == ("swap", "swap", "sw", 16 * MIB)
    assert scratch.blank is not None
    assert (scratch.blank.filesystem, scratch.blank.label) == ("ext4", "scratch")
    assert nothing.blank is not None
    assert nothing.blank.filesystem == "none"
    assert manifest.boot == FirmwareBoot(mode="uefi")
    assert (manifest.os.id, manifest.os.version) == ("debian", "12")
    assert [note.split(" is an unused ")[0] for note in made.notes] == ["partition 3 (swap)", "partition 4 (scratch)"]
    for address in manifest.contents():
        verify_content(made.bundle.content(address), address)
    assert Bundle.open(tmp_path / "image").manifest == manifest


def test_the_same_disk_gives_the_same_image(tmp_path: Path) -> None:
    """Nothing of the moment or the machine gets in."""
    disk = _worker(tmp_path)
    first = import_disk(disk, "raw", identity(), tmp_path / "a").bundle.manifest
    second = import_disk(disk, "raw", identity(), tmp_path / "b").bundle.manifest
    assert first.image_id == second.image_id


def test_zeros_are_holes(tmp_path: Path) -> None:
    """A partition that is mostly zeros takes only its data, whether the disk stored the zeros or not."""
    disk = gpt_disk(tmp_path / "disk")
    stored = tmp_path / "stored"
    stored.write_bytes(disk.read_bytes())
    assert stored.stat().st_blocks * 512 >= 31 * MIB
    made = import_disk(stored, "raw", identity(), tmp_path / "image")
    data = made.bundle.content(made.bundle.manifest.contents()[1])
    assert data.stat().st_size == 16 * MIB
    assert data.stat().st_blocks * 512 <= index_file(data).data_bytes + 64 * 1024 <= 2 * MIB


def test_boot_code_and_embedded_loader_are_kept(tmp_path: Path) -> None:
    """GPT boot code stands in the manifest, what GRUB puts behind an MBR becomes a gap."""
    gpt = import_disk(gpt_disk(tmp_path / "gpt"), "raw", identity(), tmp_path / "a").bundle.manifest
    assert isinstance(gpt.disks[0], GptDisk)
    assert gpt.disks[0].boot_code is not None
    assert gpt.boot == FirmwareBoot(mode="bios")
    mbr = import_disk(mbr_disk(tmp_path / "mbr"), "raw", identity(), tmp_path / "b").bundle.manifest
    assert isinstance(mbr.disks[0], MbrDisk)
    assert mbr.boot == FirmwareBoot(mode="bios")
    assert mbr.disks[0].gaps[0].offset == 0
    assert mbr.disks[0].gaps[0].content.size > 50_000
    assert [part.number for part in mbr.disks[0].partitions] == [1, 5, 6]


_cuts = st.lists(st.integers(0, 60), min_size=2, max_size=10, unique=True).map(sorted)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=_cuts, splatter=st.lists(st.tuples(st.integers(0, 32 * MIB), st.integers(1, 40_000)), max_size=12))
def test_assembling_gives_the_disk_back(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], splatter: list[tuple[int, int]]
) -> None:
    """Whatever lies in partitions, before, between and behind them: not one byte is lost."""
    here = tmp_path_factory.mktemp("disk")
    lines = "".join(
        f"start={2048 + low * 1024}, size={(high - low) * 1024}, type={BIOS_BOOT if low % 2 else LINUX}\n"
        for low, high in zip(cuts[::2], cuts[1::2], strict=False)
    )
    disk = table(here / "disk", 33 * MIB, "label: gpt\n" + lines)
    noise = random.Random(str(splatter))
    for offset, length in splatter:
        low = max(34 * SECTOR, offset)
        put(disk, low, noise.randbytes(min(length, 33 * MIB - 33 * SECTOR - low)))
    made = import_disk(disk, "raw", identity(), here / "image", kept_whole(here))
    assert assembled(made.bundle) == disk.read_bytes()
    back = here / "back"
    back.write_bytes(assembled(made.bundle))
    assert b"No problems found" in run("sgdisk", "-v", back)


def test_many_gaps_become_few(tmp_path: Path) -> None:
    """A manifest holds a bounded number of gaps; a thousand islands of bytes are kept in as many."""
    disk = table(tmp_path / "disk", 100 * MIB, "label: gpt\nstart=198656, size=2048\n")
    for island in range(1000):
        put(disk, MIB + island * 80_000, b"x")
    made = import_disk(disk, "raw", identity(), tmp_path / "image", kept_whole(tmp_path))
    first = made.bundle.manifest.disks[0]
    assert isinstance(first, GptDisk)
    assert 1 <= len(first.gaps) <= MAX_GAPS
    assert assembled(made.bundle) == disk.read_bytes()


WISHES = (
    (
        "no such partition to keep",
        ImportOptions(keep=frozenset({"nope"})),
        Misused,
        r"no partition 'nope'; it has 1=boot, 2=data",
    ),
    ("no such partition to give access", ImportOptions(access={"9": "read-only"}), Misused, "no partition '9'"),
    ("no kernel", ImportOptions(boot="direct"), Misused, "belong together"),
    ("a kernel too many", ImportOptions(kernel=Path("x")), Misused, "belong together"),
    ("a command line for a BIOS", ImportOptions(boot="bios", cmdline="quiet"), Misused, "belong to --boot direct"),
    (
        "a kernel that is not there",
        ImportOptions(boot="direct", kernel=Path("/nowhere/vmlinuz")),
        NotFound,
        "no such file",
    ),
    ("UEFI without an ESP", ImportOptions(boot="uefi"), Misused, "no EFI system partition"),
)


@pytest.mark.parametrize(("wishes", "error", "reason"), [pytest.param(*row[1:], id=row[0]) for row in WISHES])
def test_wishes_that_cannot_be_fulfilled(
    tmp_path: Path, wishes: ImportOptions, error: type[Exception], reason: str
) -> None:
    """Each is said in a sentence, and nothing is left."""
    disk = gpt_disk(tmp_path / "disk")
    (tmp_path / "out").mkdir()
    with pytest.raises(error, match=reason):
        import_disk(disk, "raw", identity(), tmp_path / "out/image", wishes)
    assert names(tmp_path / "out") == []


def test_what_cannot_be_booted_or_named(tmp_path: Path) -> None:
    """No boot code and no ESP, no os-release, a name that is none."""
    disk = gpt_disk(tmp_path / "disk", boot=False)
    with pytest.raises(Misused, match="firmware cannot boot it; give --boot direct"):
        import_disk(disk, "raw", identity(), tmp_path / "image")
    with pytest.raises(Misused, match="has no boot code"):
        import_disk(disk, "raw", identity(), tmp_path / "image", ImportOptions(boot="bios"))
    with pytest.raises(Misused, match="--os debian/12"):
        import_disk(gpt_disk(tmp_path / "boots"), "raw", identity(os=None), tmp_path / "image")
    with pytest.raises(DocumentError, match=r"\$.vo"):
        identity(vo="Not A Name")
    assert names(tmp_path) == ["boots", "disk"]


def test_targets(tmp_path: Path) -> None:
    """An empty directory is fine, anything else is not touched."""
    disk = gpt_disk(tmp_path / "disk")
    (tmp_path / "empty").mkdir()
    assert import_disk(disk, "raw", identity(), tmp_path / "empty").bundle.root == tmp_path / "empty"
    with pytest.raises(Conflict, match="not an empty directory"):
        import_disk(disk, "raw", identity(), tmp_path / "empty")
    with pytest.raises(Conflict, match="not an empty directory"):
        import_disk(disk, "raw", identity(), disk)
    with pytest.raises(NotFound, match="no such directory"):
        import_disk(disk, "raw", identity(), tmp_path / "no/where")
    assert names(tmp_path) == ["disk", "empty"]


def test_a_disk_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was inspected must be what was read."""
    import catalog.builder.disk_import as importing

    disk = gpt_disk(tmp_path / "disk")
    real = importing.read_table

    def slowly(read: object, size: int) -> object:
        put(disk, 3 * MIB, b"late")
        return real(read, size)  # type: ignore[arg-type]

    monkeypatch.setattr(importing, "read_table", slowly)
    with pytest.raises(DiskRefused, match="changed while it was read"):
        import_disk(disk, "raw", identity(), tmp_path / "image")
    assert names(tmp_path) == ["disk"]


_IMPORT = """
import sys
from pathlib import Path
from catalog.builder.disk_import import import_disk
from tests.support.catalog.disk_images import identity
import_disk(Path(sys.argv[1]), "raw", identity(), Path(sys.argv[2]))
"""


def test_no_space(tmp_path: Path) -> None:
    """A disk that cannot be written whole is not written at all."""
    disk = gpt_disk(tmp_path / "disk")
    limited = ["prlimit", f"--fsize={MIB}", "--", sys.executable, "-c", _IMPORT, disk, tmp_path / "image"]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"{Unavailable.__name__}: {tmp_path / 'image'}: cannot be written: File too large" in done.stderr
    assert names(tmp_path) == ["disk"]


def test_killed(tmp_path: Path) -> None:
    """What a killed import left is never under the image's name, and the next one sweeps it away."""
    disk = gpt_disk(tmp_path / "disk")
    rounds = 0
    for pause in (0.0, 0.05, 0.1, 0.2):
        process = subprocess.Popen([sys.executable, "-c", _IMPORT, disk, tmp_path / "image"], stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(tmp_path.glob(".image.*.draft")):
            time.sleep(0.002)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            rounds += 1
            assert not (tmp_path / "image").exists()
        else:
            run("rm", "-r", tmp_path / "image")
    assert rounds >= 1
    with draft_bundle(tmp_path / "image"):
        pass
    assert names(tmp_path) == ["disk"]
    import_disk(disk, "raw", identity(), tmp_path / "image")
    assert names(tmp_path) == ["disk", "image"]
