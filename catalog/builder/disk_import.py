"""From a disk to an image: split it into partitions, find what is blank, keep what a BIOS boots from.

Assembling head, gaps, partitions and tail again gives the disk back byte for byte, but for partitions that became blanks.
"""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from catalog.builder.bundle_writer import BundleDraft, draft_bundle
from catalog.builder.linter import Finding, LintReport, lint_file
from catalog.builder.recipe import ImageIdentity
from catalog.content.sparse_files import merge_runs, nonzero_runs
from catalog.disk.blank_detection import detect_blank
from catalog.disk.gpt import HEAD_SECTORS, TAIL_SECTORS, GptEntry, GptTable
from catalog.disk.inspector import MAX_VIRTUAL_SIZE, DiskFormat, convert_disk, inspect_disk
from catalog.disk.mbr import MbrEntry, MbrTable, read_table
from catalog.errors import DiskRefused, Misused
from catalog.image.bundle import Bundle
from catalog.image.manifest import MANIFEST_TYPE, MAX_GAPS, SECTOR, Blank, Manifest
from catalog.image.partition_types import flags_from_bits, type_name
from signer.documents import validate
from signer.runtime.progress import Advance, ProgressBars, no_progress_bars

GAP_DISTANCE = 16 << 10
"""Bytes. Gaps that lie closer are kept as one: a leaf is the least that is stored or sent."""

MAX_GAP_BYTES = 64 << 20
"""Bytes outside partitions that are kept. Boot loaders take less than one MiB; more is a partition that the table hides."""

EVERY = "all"
ESP = "esp"
MBR_ESP = "mbr-ef"
BootChoice = Literal["auto", "bios", "uefi", "direct"]


@dataclass(frozen=True)
class ImportOptions:
    """How the person who imports wants it.

    Attributes:
        keep: labels or numbers of partitions that stay content whatever they hold; "all" for every one.
        access: label or number to "read-only" or "copy-on-write" (the default).
        boot: "auto" takes UEFI where there is an EFI system partition, else BIOS where there is boot code.
        kernel, initrd, cmdline: for "direct".
        max_size: the largest virtual size accepted, in bytes.
    """

    keep: frozenset[str] = frozenset()
    access: Mapping[str, str] = field(default_factory=dict)
    boot: BootChoice = "auto"
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    max_size: int = MAX_VIRTUAL_SIZE


@dataclass(frozen=True)
class BuiltImage:
    """An image that was made: its directory, what its maker should know, what should not be in it."""

    bundle: Bundle
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]


def import_disk(
    disk: Path,
    named: DiskFormat,
    identity: ImageIdentity,
    target: Path,
    wishes: ImportOptions | None = None,
    bars: ProgressBars = no_progress_bars,
) -> BuiltImage:
    """Make an image directory of a disk.

    Args:
        disk: the file; never written.
        named: its format, which is never guessed.
        identity: what the image is called and needs. Without `os`, what /etc/os-release in the image says is taken.
        target: the directory to make; absent or empty.
        wishes: how.
        bars: shows how far each step is.

    Raises:
        DiskRefused: the disk or its table is not one that may be imported; the message says why.
        Misused: a wish names no partition of it, or cannot be fulfilled.
        Conflict, NotFound: the target or a file.
    """
    wishes = wishes or ImportOptions()
    _check_boot(wishes)
    before = _identity_of(disk)
    found = inspect_disk(disk, named, max_size=wishes.max_size)
    with draft_bundle(target) as draft:
        raw = disk
        if found.format != "raw":
            with bars(f"converting {disk.name}", found.size) as advance:
                raw = convert_disk(found, draft.scratch, advance)
        descriptor = os.open(raw, os.O_RDONLY | os.O_CLOEXEC)
        try:
            table = read_table(lambda offset, length: os.pread(descriptor, length, offset), found.size)
            if table is None:
                raise DiskRefused(
                    f"{disk}: has neither a GPT nor an MBR; a bare filesystem is taken by `partita image build`, "
                    'as a disk with table = "none"'
                )
            _check_wishes(table, wishes)
            boot = _boot(draft, wishes, _mode(wishes, table))
            job = _Splitting(draft, descriptor, found.size, table, wishes)
            with bars(f"splitting {disk.name}", found.size) as advance:
                document = job.disk(advance)
        finally:
            os.close(descriptor)
        if _identity_of(disk) != before:
            raise DiskRefused(f"{disk}: changed while it was read; import it when nothing writes to it")
        with bars("looking for keys and passwords", None):
            lint = job.lint()
        manifest = _manifest(identity, lint, document, boot)
        return BuiltImage(draft.finish(manifest), tuple(job.notes), lint.findings)


class _Splitting:
    """The splitting of one disk into the draft's blobs."""

    def __init__(
        self, draft: BundleDraft, disk: int, size: int, table: GptTable | MbrTable, wishes: ImportOptions
    ) -> None:
        self.notes: list[str] = []
        self._draft, self._disk, self._size, self._table = draft, disk, size, table
        self._wishes = wishes
        self._content: list[tuple[str, Path]] = []

    def disk(self, advance: Advance) -> dict[str, Any]:
        """The disk as the manifest says it."""
        entries: list[GptEntry | MbrEntry] = [*self._table.entries]
        entries.sort(key=lambda entry: entry.first_lba)
        partitions = [self._partition(entry, advance) for entry in entries]
        document: dict[str, Any] = {"size": self._size, "partitions": partitions}
        if isinstance(self._table, MbrTable):
            return document | {"table": "mbr", "gaps": self._gaps(0, self._size)}
        document |= {
            "table": "gpt",
            "uuid": self._table.uuid,
            "first_lba": self._table.first_lba,
            "last_lba": self._table.last_lba,
            "gaps": self._gaps(HEAD_SECTORS * SECTOR, self._size - TAIL_SECTORS * SECTOR),
        }
        if self._table.boot_code is not None:
            document["boot_code"] = base64.b64encode(self._table.boot_code).decode()
        if self._table.protective is not None:
            document["protective"] = self._table.protective.hex()
        return document

    def lint(self) -> LintReport:
        """What should not be in the partitions that are content."""
        return LintReport.joined([lint_file(path, where) for where, path in self._content])

    def _partition(self, entry: GptEntry | MbrEntry, advance: Advance) -> dict[str, Any]:
        offset = entry.first_lba * SECTOR
        size = (entry.last_lba - entry.first_lba + 1) * SECTOR
        names = partition_names(entry)
        document: dict[str, Any] = {
            "number": entry.number,
            "offset": offset,
            "uuid": entry.uuid,
            "access": next(
                (self._wishes.access[name] for name in names if name in self._wishes.access), "copy-on-write"
            ),
        }
        if isinstance(entry, GptEntry):
            document |= {"label": entry.name, "type": type_name(entry.type), "flags": flags_from_bits(entry.attributes)}
        else:
            document |= {"label": "", "type": entry.type}
        measured = self._draft.add_range(self._disk, offset, size, advance)
        blank = None
        if self._wishes.keep.isdisjoint((*names, EVERY)):
            blank = self._blank(offset, size, zero=measured.data_bytes == 0)
        where = describe_partition(entry)
        if blank is None:
            self._content.append((where, self._draft.content(measured.address)))
            return document | {"content": str(measured.address)}
        if blank.filesystem != "none":
            self.notes.append(
                f"{where} is an unused {blank.filesystem} and becomes a blank: each machine gets a fresh one, with another "
                f"filesystem UUID (keep it as it is with --keep {names[0]})"
            )
        return document | {"blank": blank.model_dump()}

    def _blank(self, offset: int, size: int, *, zero: bool) -> Blank | None:
        if zero:
            return Blank(size=size, filesystem="none")
        return detect_blank(lambda at, length: os.pread(self._disk, length, offset + at), size)

    def _gaps(self, low: int, high: int) -> list[dict[str, Any]]:
        """What is not zero in [low, high) outside partitions, as content."""
        places = sorted((entry.first_lba * SECTOR, (entry.last_lba + 1) * SECTOR) for entry in self._table.entries)
        gaps: list[list[tuple[int, int]]] = []
        for start, end in [*places, (high, high)]:
            if low < start:
                gaps.append(list(nonzero_runs(self._disk, low, start, SECTOR)))
            low = max(low, end)
        kept = sum(end - start for runs in gaps for start, end in runs)
        if kept > MAX_GAP_BYTES:
            raise DiskRefused(
                f"{kept} bytes outside every partition are not zero, more than the {MAX_GAP_BYTES} that a boot loader "
                "could need; give them a partition, or wipe them"
            )
        share = MAX_GAPS - len([runs for runs in gaps if runs])
        if share < 0:
            raise DiskRefused(f"there are bytes between partitions in more than {MAX_GAPS} places; wipe them")
        most = 1 + share // max(1, len(gaps))
        merged = [gap for runs in gaps if runs for gap in merge_runs(runs, GAP_DISTANCE, most)]
        return [
            {"offset": start, "content": str(self._draft.add_range(self._disk, start, end - start).address)}
            for start, end in merged
        ]


def partition_names(entry: GptEntry | MbrEntry) -> tuple[str, ...]:
    """What a person may call a partition: its number, and its label if it has one."""
    label = entry.name if isinstance(entry, GptEntry) else ""
    return (str(entry.number), label) if label else (str(entry.number),)


def describe_partition(entry: GptEntry | MbrEntry) -> str:
    """A partition in a sentence."""
    return " ".join(
        ("partition", *(name if at == 0 else f"({name})" for at, name in enumerate(partition_names(entry))))
    )


def _check_boot(wishes: ImportOptions) -> None:
    if (wishes.kernel is not None) != (wishes.boot == "direct"):
        raise Misused("--boot direct and --kernel belong together; give both or neither")
    if wishes.boot != "direct" and (wishes.initrd or wishes.cmdline):
        raise Misused("--initrd and --cmdline belong to --boot direct")


def _check_wishes(table: GptTable | MbrTable, wishes: ImportOptions) -> None:
    if not table.entries:
        raise DiskRefused("the partition table is empty; there is nothing to import")
    known = [partition_names(entry) for entry in table.entries]
    every = {name for names in known for name in names}
    for wish in (*wishes.keep, *wishes.access):
        if wish not in every and not (wish == EVERY and wish in wishes.keep):
            shown = ", ".join("=".join(names) for names in known)
            raise Misused(f"there is no partition {wish!r} on the disk; it has {shown}")


def _mode(wishes: ImportOptions, table: GptTable | MbrTable) -> str:
    """How the image boots; Misused where the disk cannot boot so."""
    kinds = [type_name(entry.type) for entry in table.entries]
    bootable = {
        "direct": True,
        "uefi": ESP in kinds or MBR_ESP in kinds,
        "bios": isinstance(table, MbrTable) or table.boot_code is not None,
    }
    if wishes.boot != "auto":
        if not bootable[wishes.boot]:
            lack = "boot code in its first sector" if wishes.boot == "bios" else "EFI system partition"
            raise Misused(f"--boot {wishes.boot}: the disk has no {lack}")
        return wishes.boot
    for mode in ("uefi", "bios"):
        if bootable[mode]:
            return mode
    raise Misused(
        "the disk has no EFI system partition and no boot code, so no firmware can boot it; "
        "say --boot direct and give --kernel"
    )


def _boot(draft: BundleDraft, wishes: ImportOptions, mode: str) -> dict[str, Any]:
    if wishes.kernel is not None:
        return direct_boot(draft, wishes.kernel, wishes.initrd, wishes.cmdline)
    return {"mode": mode}


def direct_boot(draft: BundleDraft, kernel: Path, initrd: Path | None, cmdline: str) -> dict[str, Any]:
    """The boot of an image whose kernel the hypervisor loads, its files taken into the draft."""
    document: dict[str, Any] = {"mode": "direct", "kernel": str(draft.add_file(kernel).address), "cmdline": cmdline}
    if initrd is not None:
        document["initrd"] = str(draft.add_file(initrd).address)
    return document


def _manifest(identity: ImageIdentity, lint: LintReport, disk: dict[str, Any], boot: dict[str, Any]) -> Manifest:
    system = identity.os or lint.os
    if system is None:
        raise Misused(
            "no /etc/os-release could be read in the image; name its operating system, such as --os debian/12"
        )
    return make_manifest(identity.model_copy(update={"os": system}), [disk], boot)


def make_manifest(identity: ImageIdentity, disks: list[dict[str, Any]], boot: dict[str, Any]) -> Manifest:
    """The manifest of an image; DocumentError where the parts do not fit together."""
    document = identity.model_dump(mode="json", exclude_none=True) | {
        "type": MANIFEST_TYPE,
        "disks": disks,
        "boot": boot,
    }
    return validate(Manifest, document, "manifest")


def _identity_of(path: Path) -> tuple[int, ...]:
    """Changes when the file is replaced or written; zeros where there is none (the inspection says so)."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
