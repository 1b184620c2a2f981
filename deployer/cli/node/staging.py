"""The commands `partita node prefetch|pin|unpin`, and the contents in `partita node status`. Wiring only."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated

import typer
from rich.live import Live

from deployer.cli.arguments import ImageArgument, to_json
from deployer.cli.node.options import node_client
from deployer.node.client import NodeClient
from deployer.node.schema.staging import ContentStatus, PrefetchOrder, PrefetchResult, StagingStatus
from signer.documents import validate
from signer.runtime import terminal

LOOK = 0.5
"""Seconds between two queries for arriving contents."""

staging_app = typer.Typer()


@staging_app.command("prefetch")
def node_prefetch(
    context: typer.Context,
    image: ImageArgument,
    keep: Annotated[
        int, typer.Option(min=0, help="Seconds for which it is protected from eviction.", metavar="SECONDS")
    ] = 86400,
) -> None:
    """Fetch an image to the node ahead of its use. The policy is not consulted, since nothing boots."""
    _fetch(context, {"image": image, "keep": keep})


@staging_app.command("pin")
def node_pin(context: typer.Context, image: ImageArgument) -> None:
    """Fetch an image to the node and keep it there until it is unpinned."""
    _fetch(context, {"image": image, "pin": True})


@staging_app.command("unpin")
def node_unpin(context: typer.Context, image: ImageArgument) -> None:
    """Allow a pinned image to be evicted again."""
    with node_client(context) as node:
        answer = node.unpin(image)
    text = "unpinned" if answer.released else "was not pinned"
    terminal.show(answer.model_dump(mode="json"), f"{answer.image_id}: {text}")


def format_staging(status: StagingStatus) -> list[tuple[str, str]]:
    """The rows (what, is) of a node's status about its contents, one for each arriving content."""
    cache = (
        f"{terminal.format_size(status.allocated)} of {terminal.format_size(status.quota)}, {terminal.format_size(status.leased)} leased, "
        f"{terminal.format_size(status.reserved)} arriving, {terminal.format_size(status.trash)} in the trash"
    )
    rows = [("cache", cache)]
    if status.pins:
        rows.append(("pinned", ", ".join(pin.image_id for pin in status.pins)))
    if status.swarm is None:
        rows.append(("swarm", "none"))
    else:
        swarm = status.swarm
        offered = f"{swarm.contents} contents offered on port {swarm.port}, {swarm.peers} peers, "
        rows.append(("swarm", offered + f"{terminal.format_size(swarm.sent)} sent"))
    for one in status.arriving:
        left = "unknown time" if one.left is None else f"{one.left} s"
        text = (
            f"{one.stage}: {terminal.format_size(one.have)} of {terminal.format_size(one.size)}; from the cache "
            f"{terminal.format_size(one.from_cache)}, peers {terminal.format_size(one.from_peers)}, origin "
            f"{terminal.format_size(one.from_origin)}; {terminal.format_size(one.rate)}/s, {left} left, {one.peers} peers"
        )
        rows.append((f"{one.image} {str(one.address)[:12]}", text + _fed_by(one)))
    for one in status.lately:
        came = f"arrived {one.ended} s ago: origin {terminal.format_size(one.from_origin)}, peers {terminal.format_size(one.from_peers)}"
        rows.append((f"{one.image} {str(one.address)[:12]}", came + _fed_by(one)))
    return rows


def _fed_by(one: ContentStatus) -> str:
    fed = ", ".join(f"{peer.at} {terminal.format_size(peer.received)}" for peer in one.feeders)
    return f" ({fed})" if fed else ""


def watch_staging(node: NodeClient, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show arriving contents until there are none: a live table on a terminal, else a document each time."""
    live = (
        Live(console=terminal.out, transient=True) if terminal.out.is_terminal and not terminal.options.json else None
    )
    with live or nullcontext():
        while (status := node.staging()).arriving:
            shown = terminal.table(("WHAT", "IS"), format_staging(status))
            if live is not None:
                live.update(shown)
            else:
                terminal.show(to_json(status), shown)
            sleep(LOOK)


def _fetch(context: typer.Context, values: dict[str, object]) -> None:
    order = validate(PrefetchOrder, values, "prefetch")
    with node_client(context) as node, terminal.progress(order.image, None) as advance:
        before = 0

        def watch(done: int, _total: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        result = node.prefetch(order, watch)
    terminal.show(result.model_dump(mode="json"), _text(result, pinned=order.pin))


def _text(result: PrefetchResult, *, pinned: bool) -> str:
    return (
        f"{result.title} is {'pinned' if pinned else 'in the cache'}: {terminal.format_size(result.from_cache)} from the cache, "
        f"{terminal.format_size(result.from_peers)} from peers, {terminal.format_size(result.from_origin)} from the origin, "
        f"{result.blanks_made} blanks made"
    )
