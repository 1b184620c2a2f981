"""The commands `partita node cache`, which open the node's cache while no node service runs.

The node's service owns the cache while it runs; these commands then report that and end.
"""

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from catalog.errors import Misused
from catalog.image.address import Address
from catalog.image.reference import Reference
from signer.runtime import terminal
from stager.cache.cache import Cache
from stager.cache.entries import CacheEntry, CacheLease
from stager.errors import EntryChanged, NotCached
from stager.factory import open_cache, open_stager
from stager.settings import NodeSettings
from stager.staging import total_size

cache_app = typer.Typer(no_args_is_help=True, help="Inspect the node's cache while no node service runs.")

KeyArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="An address, or the key of a blank, as `list` shows them.")
]


@cache_app.command("list")
def list_entries(context: typer.Context) -> None:
    """List the entries of the cache and the holders of their leases."""
    with _cache(context) as cache:
        entries, leases, usage = cache.entries(), cache.leases(), cache.usage()
    rows = [_row(entry, leases) for entry in entries]
    grid = terminal.table(
        ("ADDRESS OR RECIPE", "SIZE", "ON DISK", "VERIFIED", "LAST USED", "HELD BY"),
        [
            (
                entry.what,
                terminal.format_size(entry.size),
                terminal.format_size(entry.allocated),
                row["verified"],
                row["last_used"],
                ", ".join(sorted({lease.holder for lease in leases if lease.key == entry.key})),
            )
            for entry, row in zip(entries, rows, strict=True)
        ],
    )
    terminal.show(
        asdict(usage) | {"entries": rows},
        grid,
        f"{terminal.format_size(usage.allocated)} of {terminal.format_size(usage.quota)} in use, "
        f"{terminal.format_size(usage.leased)} of it leased, {terminal.format_size(usage.reserved)} reserved, "
        f"{terminal.format_size(usage.trash)} in the trash",
    )


@cache_app.command()
def verify(
    context: typer.Context,
    key: Annotated[str | None, typer.Argument(metavar="[ADDRESS]", help="Only this entry.")] = None,
    *,
    full: Annotated[bool, typer.Option("--full", help="Hash all bytes again instead of samples.")] = False,
) -> None:
    """Check that entries are the files that were verified. Changed ones are dropped, and the exit code is 4."""
    changed: list[EntryChanged] = []
    with _cache(context) as cache:
        entries = [_find(cache, key)] if key is not None else cache.entries()
        total_bytes = sum(entry.size for entry in entries) if full else None
        with terminal.progress("verifying", total_bytes) as advance:
            for entry in entries:
                try:
                    cache.check(entry.key, full=full, advance=advance)
                except EntryChanged as exc:
                    changed.append(exc)
    checked = len(entries)
    lines = [str(exc) for exc in changed]
    terminal.show(
        {"checked": checked, "full": full, "changed": lines},
        "\n".join([*lines, f"{checked} checked, {len(changed)} changed"]),
    )
    if changed:
        raise typer.Exit(EntryChanged.exit_code)


@cache_app.command()
def evict(context: typer.Context, key: KeyArgument) -> None:
    """Remove an entry without leases."""
    with _cache(context) as cache:
        entry = _find(cache, key)
        freed = cache.evict(entry.key)
    terminal.show({"evicted": entry.key, "freed": freed}, f"freed {terminal.format_size(freed)}")


@cache_app.command()
def trash(
    context: typer.Context,
    *,
    empty: Annotated[bool, typer.Option("--empty", help="Delete everything in the trash.")] = False,
) -> None:
    """List the trash: entries that were evicted by hand or failed a check."""
    with _cache(context) as cache:
        trashed = cache.trash()
        removed = cache.clean_trash(everything=True) if empty else 0
    rows = [(one.name, terminal.format_size(one.entry.allocated), _when(one.since), one.reason) for one in trashed]
    terminal.show(
        {
            "removed": removed,
            "trash": [
                {
                    "name": one.name,
                    "what": one.entry.what,
                    "allocated": one.entry.allocated,
                    "since": _when(one.since),
                    "reason": one.reason,
                }
                for one in trashed
            ],
        },
        f"removed {removed}" if empty else terminal.table(("NAME", "ON DISK", "SINCE", "WHY"), rows),
    )


@cache_app.command()
def stage(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="sha256:<64 hex digits>, VO/NAME@VERSION or VO/NAME.")],
    holder: Annotated[str, typer.Option(help="Holder of the lease.")] = "command-line",
    ttl: Annotated[float, typer.Option(min=0, help="Seconds of the lease; with 0 the image may be evicted.")] = 0,
) -> None:
    """Stage an image ahead of its use. The policy is not evaluated, since nothing boots."""
    wanted = Reference.parse(reference)
    with open_stager(terminal.section(context, NodeSettings), time.time) as (stager, client):
        image_id = client.resolve(wanted)
        manifest = client.manifest(image_id)
        with terminal.progress(manifest.title, total_size(manifest)) as advance:
            staged = stager.stage(manifest, holder, ttl, advance)
    terminal.show(
        {
            "image": image_id,
            "title": manifest.title,
            "from_cache": staged.from_cache,
            "from_network": staged.from_network,
            "copied": staged.copied,
            "resumed": staged.resumed,
            "blanks_made": staged.made,
        },
        f"{manifest.title} is staged: {terminal.format_size(staged.from_network)} from the network, "
        f"{terminal.format_size(staged.from_cache + staged.resumed + staged.copied)} already here, {staged.made} blanks made",
    )


def _cache(context: typer.Context) -> Cache:
    return open_cache(terminal.section(context, NodeSettings), time.time)


def _find(cache: Cache, text: str) -> CacheEntry:
    """Return the entry with that key."""
    for entry in cache.entries():
        if entry.key == text:
            return entry
    if not text.startswith("blank-"):
        try:
            Address.parse(text)
        except ValueError as exc:
            raise Misused(str(exc)) from exc
    raise NotCached(f"{cache.root}: {text} is not in the cache; `partita node cache list` shows its entries")


def _row(entry: CacheEntry, leases: list[CacheLease]) -> dict[str, object]:
    return {
        "key": entry.key,
        "what": entry.what,
        "size": entry.size,
        "data_bytes": entry.data_bytes,
        "allocated": entry.allocated,
        "verified": _when(entry.verified_at),
        "last_used": _when(entry.last_used),
        "leases": [
            {"holder": lease.holder, "expires": _when(lease.expires_at)} for lease in leases if lease.key == entry.key
        ],
    }


def _when(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
