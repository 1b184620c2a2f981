"""The commands `partita cluster`. Wiring only; the site's service does the work."""

import time
import uuid as uuids
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from deployer.cli.arguments import DryRunOption, minute, parse_amount, to_json
from deployer.cli.site.options import KeyOption, ReasonOption, SiteOption, VoOption, open_client
from deployer.cli.site.published_clusters import published_app
from signer.documents import validate
from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE
from signer.runtime import terminal
from signer.runtime.units import parse_duration

if TYPE_CHECKING:
    from deployer.site.client.clusters import ClusterClient
    from deployer.site.schema.clusters import ClusterDryRun, ClusterSummary, ClusterView
    from deployer.site.schema.views import MachineView

LOOK_EVERY = 1.0
"""Seconds between two queries while waiting for a cluster: as often as the site's own controller runs."""

cluster_app = typer.Typer(
    no_args_is_help=True, help="Order and manage clusters: machines with roles that start together."
)
cluster_app.add_typer(published_app)

ClusterName = Annotated[str, typer.Argument(help="A cluster's name, its UUID, or the beginning of that.")]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until it is as requested, and show its progress.")
]
Timeout = Annotated[str, typer.Option(help="Longest wait, such as 30m; the cluster itself is not affected.")]


@cluster_app.command("check")
def cluster_check(
    file: Annotated[Path, typer.Argument(help="A cluster document: TOML, or JSON where its name ends in .json.")],
) -> None:
    """Check a cluster document, and show the order in which its roles start."""
    from deployer.site.model.cluster import read_cluster

    document = read_cluster(file)
    rows = [
        (
            name,
            str(role.count) if role.quorum is None else f"{role.count}, at least {role.quorum}",
            role.image,
            ", ".join(document.before(name)) or "none",
            ", ".join(role.provides),
        )
        for name, role in document.roles.items()
    ]
    value = {"name": document.name, "sha256": document.digest, "document": to_json(document)}
    shown = Group(
        f"cluster {document.name}, SHA-256 {document.digest}",
        terminal.table(("ROLE", "MEMBERS", "IMAGE", "WAITS FOR", "PROVIDES"), rows),
    )
    terminal.show(value, shown)


@cluster_app.command("deploy")
def cluster_deploy(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            help="A cluster document's file (TOML, or .json), or the name of a published one, VO/NAME@VERSION or VO/NAME.",
            metavar="FILE|VO/NAME@VERSION",
        ),
    ],
    name: Annotated[str, typer.Option(help="The cluster's name, instead of the document's.")] = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    wait: WaitOption = True,
    timeout: Timeout = "1h",
    site: SiteOption = "",
) -> None:
    """Order a cluster, and wait until it is ready. Exits with 1 if it failed."""
    from deployer.site.schema.clusters import ClusterRequest

    seconds = parse_amount(timeout, parse_duration, "--timeout")
    order = validate(ClusterRequest, _requested(what) | ({"name": name} if name else {}), "order")
    with _cluster_client(context, site) as clusters:
        if dry_run:
            _show_dry_run(clusters.try_out(order))
            return
        made = clusters.create(order, key or str(uuids.uuid4()))
        if wait:
            made = _wait(clusters, made, _settled, seconds)
    _show(made)
    if made.phase in _FAILED:
        raise typer.Exit(1)


@cluster_app.command("list")
def cluster_list(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Include clusters that have ended.")] = False,
    vo: VoOption = "",
    site: SiteOption = "",
) -> None:
    """List the clusters that you may see, the newest first."""
    with _cluster_client(context, site) as clusters:
        found = list(clusters.all(vo=vo, active="" if every else "true"))
    terminal.show([to_json(one) for one in found], _table(found))


@cluster_app.command("status")
def cluster_status(
    context: typer.Context,
    cluster: ClusterName,
    watch: Annotated[bool, typer.Option("--watch", help="Continue until it is ready, or has failed or ended.")] = False,
    site: SiteOption = "",
) -> None:
    """Show a cluster's roles and members, and what it waits for."""
    with _cluster_client(context, site) as clusters:
        found = clusters.get(cluster)
        if watch:
            found = _wait(clusters, found, _settled, float("inf"))
    _show(found)


@cluster_app.command("scale")
def cluster_scale(
    context: typer.Context,
    cluster: ClusterName,
    role: Annotated[str, typer.Argument(help="One of its roles.")],
    count: Annotated[int, typer.Argument(help="Number of members.", min=0)],
    reason: ReasonOption = "",
    wait: WaitOption = True,
    timeout: Timeout = "1h",
    site: SiteOption = "",
) -> None:
    """Change the number of members in a role; superfluous ones are asked to power off, the highest numbers first."""
    from deployer.site.schema.clusters import ScaleRequest

    seconds = parse_amount(timeout, parse_duration, "--timeout")
    wanted = validate(ScaleRequest, {"role": role, "count": count, "reason": reason}, "scaling")

    def scaled(one: "ClusterView") -> bool:
        living = sum(machine.role == role and not machine.state.final for machine in one.members)
        return _settled(one) and living <= count

    with _cluster_client(context, site) as clusters:
        found = clusters.scale(cluster, wanted)
        if wait:
            found = _wait(clusters, found, scaled, seconds)
    _show(found)


@cluster_app.command("replace")
def cluster_replace(
    context: typer.Context,
    cluster: ClusterName,
    member: Annotated[str, typer.Argument(help="A member's host name, its machine's UUID, or the beginning of that.")],
    reason: ReasonOption = "",
    wait: WaitOption = True,
    timeout: Timeout = "1h",
    site: SiteOption = "",
) -> None:
    """Replace a cluster member by a new machine, and reset its count of failures."""
    from deployer.site.schema.clusters import ReplaceRequest

    seconds = parse_amount(timeout, parse_duration, "--timeout")
    wanted = validate(ReplaceRequest, {"member": member, "reason": reason}, "replacing")
    with _cluster_client(context, site) as clusters:
        found = clusters.replace(cluster, wanted)
        if wait:
            found = _wait(clusters, found, _settled, seconds)
    _show(found)


@cluster_app.command("destroy")
def cluster_destroy(
    context: typer.Context,
    cluster: ClusterName,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    timeout: Timeout = "10m",
    site: SiteOption = "",
) -> None:
    """End all members of a cluster now, and remove their disks."""
    seconds = parse_amount(timeout, parse_duration, "--timeout")
    with _cluster_client(context, site) as clusters:
        found = clusters.destroy(cluster, reason)
        if wait:
            found = _wait(clusters, found, lambda one: one.phase != "ending", seconds)
    terminal.show(to_json(found), f"{found.name}: {found.phase.value}")


@contextmanager
def _cluster_client(context: typer.Context, site: str) -> "Iterator[ClusterClient]":
    from deployer.site.client.clusters import ClusterClient

    with open_client(context, site) as client:
        yield ClusterClient(client)


def _requested(what: str) -> dict[str, object]:
    """The requested cluster: the document in a file, else the one published under that name."""
    from deployer.site.model.cluster import read_cluster

    file = Path(what)
    if file.is_file() or file.suffix in {".toml", ".json"} or "/" not in what:
        return {"document": to_json(read_cluster(file))}
    return {"reference": what}


_FAILED = {"failed", "ended", "ending"}
_OVER = {"ready", *_FAILED}


def _settled(one: "ClusterView") -> bool:
    """Whether it is stable: it is ready, or has ended, or is degraded and stays so until something changes."""
    if one.phase in _OVER:
        return True
    short = [role for role in one.status.values() if role.ready < role.count]
    stays = bool(short) and all(role.present == role.ready and role.reason for role in short)
    return one.phase == "degraded" and stays


def _wait(
    clusters: "ClusterClient", cluster: "ClusterView", done: "Callable[[ClusterView], bool]", seconds: float
) -> "ClusterView":
    """Query a cluster until it is done or the time has passed, and show it meanwhile on a terminal."""
    ends = time.monotonic() + seconds
    with _screen() as show:
        while True:
            found = clusters.get(cluster.uuid)
            show(cluster_text(found))
            left = ends - time.monotonic()
            if done(found) or left <= 0:
                return found
            time.sleep(min(LOOK_EVERY, left))


@contextmanager
def _screen() -> Iterator[Callable[[RenderableType], None]]:
    """A function that redraws a text on standard error; it does nothing without a terminal."""
    if not terminal.err.is_terminal:
        yield lambda _: None
        return
    with Live(console=terminal.err, transient=True, auto_refresh=False) as live:
        yield lambda text: live.update(text, refresh=True)


def cluster_text(one: "ClusterView") -> RenderableType:
    """A cluster as text: its phase, roles and members."""
    head = f"{one.name} ({one.uuid[:8]}) is {one.phase.value}{f': {one.reason}' if one.reason else ''}"
    roles = [
        (name, f"{role.ready} of {role.count}", role.present, ", ".join(role.waits_for), role.reason)
        for name, role in one.status.items()
    ]
    members = [_member(machine, one.failed.get(machine.uuid, "")) for machine in one.members]
    tables: list[RenderableType] = [terminal.table(("ROLE", "READY", "PRESENT", "WAITS FOR", "REASON"), roles)]
    if members:
        columns = ("HOST NAME", "UUID", "STATE", "ADDRESSES", "STAGED", "REASON")
        tables += ["", terminal.table(columns, members)]
    return Group(terminal.printable(head), "", *tables)


def _member(machine: "MachineView", failed: str) -> tuple[str, ...]:
    state = "waits for others" if machine.held else machine.state.value
    if machine.ready is not None and not machine.state.final:
        state += f", {machine.ready}"
    staged = (
        f"{terminal.format_size(machine.fetched)} of {terminal.format_size(machine.total)}" if machine.total else ""
    )
    reason = failed or machine.reason or machine.desired_reason
    return (machine.hostname, machine.uuid[:8], state, ", ".join(machine.known), staged, reason)


def _show_dry_run(one: "ClusterDryRun") -> None:
    """Show a dry run; exits with 3 where the policy refuses it, and with 5 where there is not enough capacity now."""
    rows = [
        (
            name,
            "accepted" if role.accepted else "refused",
            f"{role.placed} of {role.count}",
            _in(role.begins),
            _in(role.ready),
            role.problem,
        )
        for name, role in one.roles.items()
    ]
    size = terminal.format_size(sum(one.fetch.values()))
    words = [
        f"cluster {one.name}: {' -> '.join(', '.join(step) for step in one.order)}",
        f"{size} to fetch on {len(one.fetch)} node{'' if len(one.fetch) == 1 else 's'}; ready {_in(one.seconds)}",
        *one.problems,
        *(f"{name}: {line}" for name, role in one.roles.items() for line in role.placement),
    ]
    columns = ("ROLE", "POLICY", "CAPACITY", "STARTS", "READY", "PROBLEM")
    text = Group(*map(terminal.printable, words), "", terminal.table(columns, rows))
    terminal.show(to_json(one), text)
    if not one.accepted:
        raise typer.Exit(EXIT_REFUSED)
    if not one.placed or one.problems:
        raise typer.Exit(EXIT_UNAVAILABLE)


def _in(seconds: float | None) -> str:
    return "unknown" if seconds is None else "at once" if seconds == 0 else f"in {seconds:.0f} s"


def _show(one: "ClusterView") -> None:
    terminal.show(to_json(one), cluster_text(one))


def _table(found: "list[ClusterSummary]") -> object:
    rows = [
        (
            one.uuid[:8],
            one.name,
            one.phase.value,
            ", ".join(f"{count} {role}" for role, count in one.roles.items()),
            one.owner.subject,
            minute(one.expires),
            one.reason,
        )
        for one in found
    ]
    columns = ("UUID", "NAME", "PHASE", "MEMBERS", "OWNER", "EXPIRES", "REASON")
    return terminal.table(columns, rows) if rows else "no clusters"
