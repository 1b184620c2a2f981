"""Import of a disk as an image: splits it into partitions, detects blanks, keeps boot code and boot loaders.

Head, gaps, partitions and tail together give the disk again byte for byte, except for partitions that became blanks.
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
from catalog.disk.gpt import HEAD_SECTORS, TAIL_SECTORS, GptTable, TableEntry
from catalog.disk.inspector import MAX_VIRTUAL_SIZE, DiskFormat, convert_disk, inspect_disk
from catalog.disk.mbr import MbrTable, read_table
from catalog.errors import DiskRefused, Misused
from catalog.image.bundle import Bundle
from catalog.image.manifest import MANIFEST_TYPE, MAX_GAPS, SECTOR, Blank, Manifest
from catalog.image.partition_types import flags_from_bits, type_name
from signer.documents import validate
from signer.runtime import files
from signer.runtime.progress import Advance, ProgressBars, no_progress_bars

GAP_DISTANCE = 16 << 10
"""Bytes. Closer gaps are joined, as a leaf is the least that is stored or sent."""

MAX_GAP_BYTES = 64 << 20
"""Nonzero bytes outside partitions, at most. Boot loaders need less than one MiB; more would be a hidden partition."""

EVERY = "all"
ESP = "esp"
MBR_ESP = "mbr-ef"
BootChoice = Literal["auto", "bios", "uefi", "direct"]


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    Attributes:
        keep: labels or numbers of partitions that stay content even if they are blank; "all" for every partition.
        access: label or number to "read-only" or "copy-on-write" (the default).
        boot: "auto" is UEFI if the disk has an EFI system partition, else BIOS if it has boot code.
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
    """A new image: its bundle, notes for the person who made it, and the linter's findings."""

    bundle: Bundle
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]


def import_disk(
    disk: Path,
    named: DiskFormat,
    identity: ImageIdentity,
    target: Path,
    options: ImportOptions | None = None,
    bars: ProgressBars = no_progress_bars,
) -> BuiltImage:
    """Make a bundle of a disk.

    Args:
        disk: the file; never written.
        named: its format, which is never guessed.
        identity: name and needs of the image. Without `os`, /etc/os-release in the image is used.
        target: the directory to make; absent or empty.
        options: of the import.
        bars: shows the progress of each step.

    Raises:
        DiskRefused: the disk or its partition table cannot be imported; the message says why.
        Misused: an option names a partition that does not exist, or cannot be met.
        Conflict, NotFound: the target or a file.
    """
    options = options or ImportOptions()
    _check_boot(options)
    before = _file_state(disk)
    found = inspect_disk(disk, named, max_size=options.max_size)
    with draft_bundle(target) as draft:
        raw = disk
        if found.format != "raw":
            with bars(f"converting {disk.name}", found.size) as advance:
                raw = convert_disk(found, draft.scratch, advance)
        with files.opened(raw) as descriptor:
            table = read_table(lambda offset, length: os.pread(descriptor, length, offset), found.size)
            if table is None:
                raise DiskRefused(
                    f"{disk}: has neither a GPT nor an MBR; import a bare filesystem with `partita image build`, "
                    'as a disk with table = "none"'
                )
            _check_options(table, options)
            boot: dict[str, Any] = {"mode": _boot_mode(options, table)}
            if options.kernel is not None:
                boot = direct_boot(draft, options.kernel, options.initrd, options.cmdline)
            split = _DiskSplit(draft, descriptor, found.size, table, options)
            with bars(f"splitting {disk.name}", found.size) as advance:
                document = split.disk(advance)
        if _file_state(disk) != before:
            raise DiskRefused(f"{disk}: changed while it was read; import it when no process writes to it")
        with bars("looking for keys and passwords", None):
            lint = split.lint()
        system = identity.os or lint.os
        if system is None:
            raise Misused(
                "the image has no readable /etc/os-release; name its operating system, such as --os debian/12"
            )
        manifest = make_manifest(identity.model_copy(update={"os": system}), [document], boot)
        return BuiltImage(draft.finish(manifest), tuple(split.notes), lint.findings)


class _DiskSplit:
    """Splits one disk into contents of the draft."""

    def __init__(
        self, draft: BundleDraft, disk: int, size: int, table: GptTable | MbrTable, options: ImportOptions
    ) -> None:
        self.notes: list[str] = []
        self._draft, self._disk, self._size, self._table = draft, disk, size, table
        self._options = options
        self._partitions: list[tuple[str, Path]] = []

    def disk(self, advance: Advance) -> dict[str, Any]:
        """Split the disk; returns its description for the manifest."""
        entries = sorted(self._table.entries, key=lambda entry: entry.first_lba)
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
        """Lint the partitions that are content."""
        return LintReport.joined([lint_file(path, where) for where, path in self._partitions])

    def _partition(self, entry: TableEntry, advance: Advance) -> dict[str, Any]:
        offset = entry.first_lba * SECTOR
        size = (entry.last_lba - entry.first_lba + 1) * SECTOR
        names = partition_names(entry)
        access = next((self._options.access[name] for name in names if name in self._options.access), "copy-on-write")
        document: dict[str, Any] = {"number": entry.number, "offset": offset, "uuid": entry.uuid, "access": access}
        document |= {"label": entry.label, "type": type_name(entry.type), "flags": flags_from_bits(entry.attributes)}
        index = self._draft.add_range(self._disk, offset, size, advance)
        blank = None
        if self._options.keep.isdisjoint((*names, EVERY)):
            blank = Blank(size=size, filesystem="none")
            if index.data_bytes:
                blank = detect_blank(lambda at, length: os.pread(self._disk, length, offset + at), size)
        where = describe_partition(entry)
        if blank is None:
            self._partitions.append((where, self._draft.content(index.address)))
            return document | {"content": str(index.address)}
        if blank.filesystem != "none":
            self.notes.append(
                f"{where} is an unused {blank.filesystem} and becomes a blank: each machine gets a new one with another "
                f"filesystem UUID (keep it unchanged with --keep {names[0]})"
            )
        return document | {"blank": blank.model_dump()}

    def _gaps(self, low: int, high: int) -> list[dict[str, Any]]:
        """Add nonzero bytes in [low, high) outside partitions as contents; returns the gaps for the manifest."""
        extents = sorted((entry.first_lba * SECTOR, (entry.last_lba + 1) * SECTOR) for entry in self._table.entries)
        gaps: list[list[tuple[int, int]]] = []
        for start, end in [*extents, (high, high)]:
            if low < start:
                gaps.append(list(nonzero_runs(self._disk, low, start, SECTOR)))
            low = max(low, end)
        kept = sum(end - start for runs in gaps for start, end in runs)
        if kept > MAX_GAP_BYTES:
            raise DiskRefused(
                f"{kept} nonzero bytes are outside all partitions, more than the {MAX_GAP_BYTES} that a boot loader "
                "could need; put them into a partition, or wipe them"
            )
        share = MAX_GAPS - len([runs for runs in gaps if runs])
        if share < 0:
            raise DiskRefused(f"nonzero bytes are between partitions in more than {MAX_GAPS} places; wipe them")
        most = 1 + share // max(1, len(gaps))
        merged = [gap for runs in gaps if runs for gap in merge_runs(runs, GAP_DISTANCE, most)]
        return [
            {"offset": start, "content": str(self._draft.add_range(self._disk, start, end - start).address)}
            for start, end in merged
        ]


def partition_names(entry: TableEntry) -> tuple[str, ...]:
    """The names of a partition in options: its number, and its label if it has one."""
    return (str(entry.number), entry.label) if entry.label else (str(entry.number),)


def describe_partition(entry: TableEntry) -> str:
    """The name of a partition in messages: `partition 2 (label)`."""
    number, *label = partition_names(entry)
    return f"partition {number} ({label[0]})" if label else f"partition {number}"


def _check_boot(options: ImportOptions) -> None:
    if (options.kernel is not None) != (options.boot == "direct"):
        raise Misused("--boot direct and --kernel belong together; give both or neither")
    if options.boot != "direct" and (options.initrd or options.cmdline):
        raise Misused("--initrd and --cmdline belong to --boot direct")


def _check_options(table: GptTable | MbrTable, options: ImportOptions) -> None:
    if not table.entries:
        raise DiskRefused("the partition table is empty")
    known = [partition_names(entry) for entry in table.entries]
    every = {name for names in known for name in names}
    for name in (*options.keep, *options.access):
        if name not in every and not (name == EVERY and name in options.keep):
            shown = ", ".join("=".join(names) for names in known)
            raise Misused(f"the disk has no partition {name!r}; it has {shown}")


def _boot_mode(options: ImportOptions, table: GptTable | MbrTable) -> str:
    """The boot mode of the image; Misused if the disk does not support it."""
    kinds = [type_name(entry.type) for entry in table.entries]
    bootable = {
        "direct": True,
        "uefi": ESP in kinds or MBR_ESP in kinds,
        "bios": isinstance(table, MbrTable) or table.boot_code is not None,
    }
    if options.boot != "auto":
        if not bootable[options.boot]:
            lack = "boot code in its first sector" if options.boot == "bios" else "EFI system partition"
            raise Misused(f"--boot {options.boot}: the disk has no {lack}")
        return options.boot
    for mode in ("uefi", "bios"):
        if bootable[mode]:
            return mode
    raise Misused(
        "the disk has neither an EFI system partition nor boot code, so firmware cannot boot it; "
        "give --boot direct and --kernel"
    )


def direct_boot(draft: BundleDraft, kernel: Path, initrd: Path | None, cmdline: str) -> dict[str, Any]:
    """The boot section of an image whose kernel the hypervisor loads; adds kernel and initrd to the draft."""
    document: dict[str, Any] = {"mode": "direct", "kernel": str(draft.add_file(kernel).address), "cmdline": cmdline}
    if initrd is not None:
        document["initrd"] = str(draft.add_file(initrd).address)
    return document


def make_manifest(identity: ImageIdentity, disks: list[dict[str, Any]], boot: dict[str, Any]) -> Manifest:
    """The manifest of an image; DocumentError if its sections do not fit together."""
    members = identity.model_dump(mode="json", exclude_none=True)
    return validate(Manifest, members | {"type": MANIFEST_TYPE, "disks": disks, "boot": boot}, "manifest")


def _file_state(path: Path) -> tuple[int, ...]:
    """A value that changes when the file is replaced or written; empty if it does not exist, which inspection reports."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
