"""Building of an image from a recipe: partitions from files, directory trees and blanks, placed on disks.

The same recipe and inputs give the same image ID: all UUIDs are given or derived, all times are fixed.
"""

from pathlib import Path
from typing import Any

from catalog.builder.bundle_writer import BundleDraft, draft_bundle
from catalog.builder.disk_import import BuiltImage, direct_boot, make_manifest
from catalog.builder.filesystem_images import make_erofs, make_ext4
from catalog.builder.linter import LintReport, lint_file, lint_tree
from catalog.builder.recipe import BlankSource, FileSource, Recipe, RecipeDisk, RecipePartition, TreeSource, align_up
from catalog.content.indexing import ContentIndex
from catalog.disk.gpt import HEAD_SECTORS, TAIL_SECTORS
from catalog.errors import Malformed, Misused, NotFound
from catalog.image.manifest import SECTOR
from signer.runtime.progress import ProgressBars, no_progress_bars

ALIGNMENT = 1 << 20
"""Bytes. Partitions begin at whole MiB, the alignment that all tools use since disks have large sectors."""


def build_image(recipe_file: Path, target: Path, bars: ProgressBars = no_progress_bars) -> BuiltImage:
    """Make a bundle from a recipe.

    Args:
        recipe_file: the TOML file; paths in it are relative to its directory.
        target: the directory to make; absent or empty.
        bars: shows the progress of each step.

    Raises:
        DocumentError: the recipe is malformed, or does not give a valid manifest.
        NotFound: the recipe, or a file or tree that it names.
        Misused, DiskRefused: a tree that does not fit or cannot be converted.
        Conflict: the target exists.
    """
    try:
        data = recipe_file.read_bytes()
    except OSError as exc:
        raise NotFound(f"{recipe_file}: cannot be read: {exc.strerror}; name a recipe") from exc
    return build_recipe(Recipe.parse(data, str(recipe_file)), recipe_file.parent, target, bars)


def build_recipe(recipe: Recipe, base: Path, target: Path, bars: ProgressBars = no_progress_bars) -> BuiltImage:
    """As :func:`build_image`, with a parsed recipe; its paths are relative to `base`."""
    with draft_bundle(target) as draft:
        build = _RecipeBuild(recipe, base, draft, bars)
        disks = [build.disk(number, disk) for number, disk in enumerate(recipe.disk)]
        boot: dict[str, Any] = {"mode": recipe.boot.mode}
        if recipe.boot.kernel is not None:
            initrd = base / recipe.boot.initrd if recipe.boot.initrd else None
            boot = direct_boot(draft, base / recipe.boot.kernel, initrd, recipe.boot.cmdline or "")
        manifest = make_manifest(recipe.image, disks, boot)
        return BuiltImage(draft.finish(manifest), (), LintReport.joined(build.lints).findings)


class _RecipeBuild:
    """Builds one recipe into a draft."""

    def __init__(self, recipe: Recipe, base: Path, draft: BundleDraft, bars: ProgressBars) -> None:
        self.lints: list[LintReport] = []
        self._recipe, self._base, self._draft, self._bars = recipe, base, draft, bars

    def disk(self, number: int, disk: RecipeDisk) -> dict[str, Any]:
        """Make a disk; returns its description for the manifest."""
        filled = [self._fill(number, position, partition) for position, partition in enumerate(disk.partition)]
        if disk.table == "none":
            return {"table": "none", "partition": filled[0][0]}
        placed, offset = [], ALIGNMENT
        for entry, (partition, (members, length)) in enumerate(zip(disk.partition, filled, strict=True), 1):
            placed.append(members | {"number": entry, "offset": offset, "flags": partition.flags})
            offset = align_up(offset + length, ALIGNMENT)
        size = align_up(offset + TAIL_SECTORS * SECTOR, ALIGNMENT)
        return {
            "table": "gpt",
            "uuid": disk.uuid or self._recipe.uuid(number),
            "size": size,
            "first_lba": HEAD_SECTORS,
            "last_lba": size // SECTOR - TAIL_SECTORS - 1,
            "partitions": placed,
        }

    def _fill(self, disk: int, position: int, partition: RecipePartition) -> tuple[dict[str, Any], int]:
        """Make a partition; returns its members in the manifest without its position, and its size in bytes."""
        uuid = partition.uuid or self._recipe.uuid(disk, position)
        members: dict[str, Any] = partition.model_dump(include={"label", "type", "access"}) | {"uuid": uuid}
        source = partition.source
        where = f"partition {position + 1} ({partition.label}) of disk {disk}"
        match source:
            case BlankSource():
                blank = {"size": source.size, "filesystem": source.blank, "label": source.label}
                return members | {"blank": blank}, source.size
            case FileSource():
                path = self._base / source.file
                if not path.is_file():
                    raise NotFound(f"{where}: {path}: no such file")
                with self._bars(f"reading {path.name}", path.stat().st_size) as advance:
                    index = self._draft.add_file(path, advance)
                self.lints.append(lint_file(self._draft.content(index.address), where))
            case TreeSource():
                with self._bars(f"making {source.filesystem} of {source.tree}", None):
                    index = self._tree(source, uuid, writable=partition.access == "copy-on-write")
                self.lints.append(lint_tree(self._base / source.tree, where))
        size = index.address.size
        if size % SECTOR:
            raise Malformed(f"{where}: has {size} bytes, not a multiple of {SECTOR} as a partition needs")
        return members | {"content": str(index.address)}, size

    def _tree(self, source: TreeSource, uuid: str, *, writable: bool) -> ContentIndex:
        tree, target = self._base / source.tree, self._draft.scratch / "tree"
        if source.filesystem == "erofs":
            if writable:
                raise Misused(f"{tree}: an erofs is read-only; write access = 'read-only', or use ext4")
            make_erofs(tree, target, uuid, owner=source.owner)
        else:
            make_ext4(tree, target, uuid, owner=source.owner, size=source.size, label=source.label, journal=writable)
        index = self._draft.add_file(target)  # copied, so that zeros become holes
        target.unlink()
        return index
