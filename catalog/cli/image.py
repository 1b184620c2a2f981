"""The commands that make and inspect images: image import, build, show, lint."""

from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.builder.disk_import import BootChoice, BuiltImage, ImportOptions, import_disk
from catalog.builder.linter import Finding, lint_bundle
from catalog.builder.recipe import ImageIdentity
from catalog.builder.recipe_build import build_image
from catalog.disk.inspector import MAX_VIRTUAL_SIZE, DiskFormat
from catalog.errors import Misused
from catalog.image.bundle import Bundle
from catalog.image.manifest import Blank, Manifest, PlacedPartition
from signer.documents import validate
from signer.errors import EXIT_REFUSED
from signer.runtime import terminal
from signer.runtime.units import parse_size

image_app = typer.Typer(
    no_args_is_help=True, help="Make and inspect images: split a disk into partitions, or build one from a recipe."
)

Output = Annotated[Path, typer.Option("--output", "-o", help="The image directory to make; absent or empty.")]


def _size(text: str) -> int:
    """A size option; click's own message names the option."""
    try:
        return parse_size(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


@image_app.command("import")
def import_(
    disk: Annotated[Path, typer.Argument(help="The disk: a file with a GPT or an MBR. It is never modified.")],
    *,
    named: Annotated[DiskFormat, typer.Option("--format", help="The disk's format; it is never guessed.")],
    vo: Annotated[str, typer.Option(help="The virtual organization that the image belongs to.")],
    name: Annotated[str, typer.Option(help="The image's name within the VO.")],
    version: Annotated[str, typer.Option(help="Its version; a published version never changes.")],
    output: Output,
    system: Annotated[
        str | None,
        typer.Option(
            "--os", help="ID/VERSION_ID as in os-release(5), such as debian/12; read from the image if left out."
        ),
    ] = None,
    arch: Annotated[str, typer.Option(help="x86_64 or aarch64.")] = "x86_64",
    memory: Annotated[str, typer.Option(help="The minimum memory of a machine.")] = "512MiB",
    cores: Annotated[int, typer.Option(min=1, help="The minimum number of cores of a machine.")] = 1,
    boot: Annotated[
        BootChoice,
        typer.Option(help="auto: UEFI where there is an EFI system partition, else BIOS where there is boot code."),
    ] = "auto",
    kernel: Annotated[Path | None, typer.Option(help="For --boot direct: the kernel.")] = None,
    initrd: Annotated[Path | None, typer.Option(help="For --boot direct: the initramfs.")] = None,
    cmdline: Annotated[str, typer.Option(help="For --boot direct: the kernel's command line.")] = "",
    access: Annotated[
        list[str] | None,
        typer.Option(metavar="PARTITION=ACCESS", help="read-only or copy-on-write (the default), by label or number."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PARTITION",
            help="Keep a partition unchanged, by label or number, or `all`. Other partitions that are swap, all zero, or an "
            "unused filesystem become blanks: each machine gets a new one, with another filesystem UUID. Keep one that the "
            "guest finds by its filesystem's UUID=; PARTUUID= and LABEL= stay the same.",
        ),
    ] = None,
    contextualization: Annotated[str, typer.Option(help="nocloud (cloud-init reads a seed disk) or none.")] = "nocloud",
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="The largest virtual size accepted; 2TiB by default.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 3 if the linter warns.")] = False,
) -> None:
    """Split a disk into partitions: make an image directory, ready to endorse and publish."""
    document: dict[str, Any] = {
        "vo": vo,
        "name": name,
        "version": version,
        "architecture": arch,
        "needs": {"memory": memory, "cores": cores},
        "contextualization": contextualization,
    }
    if system is not None:
        document["os"] = dict(zip(("id", "version"), (*system.split("/", 1), ""), strict=False))
    import_options = ImportOptions(
        keep=frozenset(keep or ()),
        access=_access(access or []),
        boot=boot,
        kernel=kernel,
        initrd=initrd,
        cmdline=cmdline,
        max_size=MAX_VIRTUAL_SIZE if max_size is None else _size(max_size),
    )
    identity = validate(ImageIdentity, document, "image")
    _made(import_disk(disk, named, identity, output, import_options, terminal.progress), strict=strict)


@image_app.command("build")
def build_(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file; see examples/recipes.")],
    output: Output,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 3 if the linter warns.")] = False,
) -> None:
    """Build an image from partition files, directory trees and blanks. Same recipe and inputs, same image ID."""
    _made(build_image(recipe, output, terminal.progress), strict=strict)


@image_app.command("show")
def show(directory: Annotated[Path, typer.Argument(help="An image directory.")]) -> None:
    """Show the contents of an image directory."""
    bundle = Bundle.open(directory)
    terminal.show(
        {"image": bundle.manifest.image_id, "manifest": bundle.manifest.model_dump(mode="json", exclude_none=True)},
        _head(bundle.manifest),
        terminal.table(("partition", "type", "size", "access", "content"), _rows(bundle.manifest)),
    )


@image_app.command("lint")
def lint(
    directory: Annotated[Path, typer.Argument(help="An image directory.")],
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 3 if there is a warning.")] = False,
) -> None:
    """Warn about host keys, authorized keys, password hashes and credentials inside an image."""
    with terminal.progress("searching for keys and passwords", None):
        findings = lint_bundle(Bundle.open(directory)).findings
    shown = "\n".join(map(str, findings)) or "no keys, passwords or credentials found"
    terminal.show({"findings": [_json(finding) for finding in findings]}, terminal.printable(shown))
    _end(findings, strict=strict)


def _made(made: BuiltImage, *, strict: bool) -> None:
    manifest = made.bundle.manifest
    value = {
        "image": manifest.image_id,
        "title": manifest.title,
        "directory": str(made.bundle.root),
        "notes": list(made.notes),
        "findings": [_json(finding) for finding in made.findings],
    }
    lines = [_head(manifest), *(f"note: {note}" for note in made.notes)]
    lines += [f"warning: {finding}" for finding in made.findings]
    lines.append(f"The image is in {made.bundle.root}; next: partita endorse {made.bundle.root}")
    terminal.show(value, terminal.printable("\n".join(lines)))
    _end(made.findings, strict=strict)


def _end(findings: tuple[Finding, ...], *, strict: bool) -> None:
    if strict and findings:
        raise typer.Exit(EXIT_REFUSED)


def _json(finding: Finding) -> dict[str, str]:
    return {"rule": finding.rule, "where": finding.where, "path": finding.path, "why": finding.why}


def _head(manifest: Manifest) -> str:
    content = sum(address.size for address in manifest.contents())
    return (
        f"{manifest.title}  {manifest.image_id}\n"
        f"{manifest.os.id} {manifest.os.version} for {manifest.architecture}, boots by {manifest.boot.mode}, "
        f"needs {terminal.format_size(manifest.needs.memory)} and {manifest.needs.cores} core(s); "
        f"{terminal.format_size(content)} of content in {len(manifest.contents())} parts"
    )


def _rows(manifest: Manifest) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for number, disk in enumerate(manifest.disks):
        for part in disk.partitions:
            place = f"{number}.{part.number}" if isinstance(part, PlacedPartition) else str(number)
            content = f"{str(part.content)[:16]}…" if part.content else ""
            what = f"blank {part.blank.filesystem}" if isinstance(part.blank, Blank) else content
            rows.append(
                (f"{place} {part.label}".strip(), part.type, terminal.format_size(part.size), part.access, what)
            )
    return rows


def _access(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        which, equals, how = text.partition("=")
        if not equals or how not in ("read-only", "copy-on-write"):
            raise Misused(f"--access {text}: write PARTITION=read-only or PARTITION=copy-on-write")
        found[which] = how
    return found
