"""From a recipe to an image: partitions out of files, directory trees and blanks, placed on disks.

The same recipe and the same inputs give the same image ID: every UUID is given or derived, every time is fixed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.builder.bundle_writer import BundleDraft, draft_bundle
from catalog.builder.disk_import import BuiltImage, direct_boot, make_manifest
from catalog.builder.filesystem_images import make_erofs, make_ext4
from catalog.builder.linter import LintReport, lint_file, lint_tree
from catalog.builder.recipe import BlankSource, FileSource, Recipe, RecipeDisk, RecipePartition, TreeSource, align_up
from catalog.content.indexing import ContentIndex
from catalog.errors import Malformed, Misused, NotFound
from catalog.image.manifest import SECTOR
from signer.runtime.progress import ProgressBars, no_progress_bars

ALIGNMENT = 1 << 20
"""Bytes. Partitions begin at whole MiB, as every tool has placed them since disks have large sectors."""

FIRST_LBA = 34
TAIL = 33
"""Sectors: where a GPT lets partitions begin, and how many it takes at the end."""


def build_image(recipe_file: Path, target: Path, bars: ProgressBars = no_progress_bars) -> BuiltImage:
    """Make an image directory from a recipe.

    Args:
        recipe_file: the TOML file; paths in it are relative to its directory.
        target: the directory to make; absent or empty.
        bars: shows how far each step is.

    Raises:
        DocumentError: the recipe is malformed, or its parts make no valid manifest.
        NotFound: the recipe, or a file or tree that it names.
        Misused, DiskRefused: a tree that does not fit or cannot be taken.
        Conflict: the target exists.
    """
    try:
        data = recipe_file.read_bytes()
    except OSError as exc:
        raise NotFound(f"{recipe_file}: cannot be read: {exc.strerror}; name a recipe") from exc
    return build_recipe(Recipe.parse(data, str(recipe_file)), recipe_file.parent, target, bars)


def build_recipe(recipe: Recipe, base: Path, target: Path, bars: ProgressBars = no_progress_bars) -> BuiltImage:
    """As :func:`build`, with a recipe that has been read; `base` is the directory that its paths start from."""
    with draft_bundle(target) as draft:
        job = _Building(recipe, base, draft, bars)
        disks = [job.disk(number, disk) for number, disk in enumerate(recipe.disk)]
        boot: dict[str, Any] = {"mode": recipe.boot.mode}
        if recipe.boot.kernel is not None:
            initrd = base / recipe.boot.initrd if recipe.boot.initrd else None
            boot = direct_boot(draft, base / recipe.boot.kernel, initrd, recipe.boot.cmdline or "")
        manifest = make_manifest(recipe.image, disks, boot)
        return BuiltImage(draft.finish(manifest), (), LintReport.joined(job.lints).findings)


@dataclass(frozen=True)
class _Filled:
    """A partition without its place: its members in the manifest, its size in bytes."""

    members: dict[str, Any]
    size: int


class _Building:
    """The building of one recipe into a draft."""

    def __init__(self, recipe: Recipe, base: Path, draft: BundleDraft, bars: ProgressBars) -> None:
        self.lints: list[LintReport] = []
        self._recipe, self._base, self._draft, self._bars = recipe, base, draft, bars

    def disk(self, number: int, disk: RecipeDisk) -> dict[str, Any]:
        """A disk as the manifest says it."""
        filled = [self._fill(number, place, partition) for place, partition in enumerate(disk.partition)]
        if disk.table == "none":
            return {"table": "none", "partition": filled[0].members}
        placed, offset = [], ALIGNMENT
        for place, (partition, made) in enumerate(zip(disk.partition, filled, strict=True)):
            where = {"number": place + 1, "offset": offset, "flags": partition.flags}
            placed.append(made.members | where)
            offset = align_up(offset + made.size, ALIGNMENT)
        size = align_up(offset + TAIL * SECTOR, ALIGNMENT)
        return {
            "table": "gpt",
            "uuid": disk.uuid or self._recipe.uuid(number),
            "size": size,
            "first_lba": FIRST_LBA,
            "last_lba": size // SECTOR - TAIL - 1,
            "partitions": placed,
        }

    def _fill(self, disk: int, place: int, partition: RecipePartition) -> _Filled:
        uuid = partition.uuid or self._recipe.uuid(disk, place)
        members: dict[str, Any] = {
            "label": partition.label,
            "type": partition.type,
            "uuid": uuid,
            "access": partition.access,
        }
        source = partition.source
        where = f"partition {place + 1} ({partition.label}) of disk {disk}"
        match source:
            case BlankSource():
                blank = {"size": source.size, "filesystem": source.blank, "label": source.label}
                return _Filled(members | {"blank": blank}, source.size)
            case FileSource():
                path = self._base / source.file
                if not path.is_file():
                    raise NotFound(f"{where}: {path}: there is no such file")
                with self._bars(f"reading {path.name}", path.stat().st_size) as advance:
                    measured = self._draft.add_file(path, advance)
                self.lints.append(lint_file(self._draft.content(measured.address), where))
            case TreeSource():
                with self._bars(f"making {source.filesystem} of {source.tree}", None):
                    measured = self._tree(source, uuid, writable=partition.access == "copy-on-write")
                self.lints.append(lint_tree(self._base / source.tree, where))
        size = measured.address.size
        if size % SECTOR:
            raise Malformed(f"{where}: has {size} bytes, not a multiple of {SECTOR}; it is no partition")
        return _Filled(members | {"content": str(measured.address)}, size)

    def _tree(self, source: TreeSource, uuid: str, *, writable: bool) -> ContentIndex:
        tree, target = self._base / source.tree, self._draft.scratch / "tree"
        if source.filesystem == "erofs":
            if writable:
                raise Misused(f"{tree}: an erofs cannot be written to; say access = 'read-only', or take ext4")
            make_erofs(tree, target, uuid, owner=source.owner)
        else:
            make_ext4(tree, target, uuid, owner=source.owner, size=source.size, label=source.label, journal=writable)
        measured = self._draft.add_file(target)  # copied, so that its zeros become holes
        target.unlink()
        return measured
