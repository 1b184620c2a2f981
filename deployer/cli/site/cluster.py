"""Commands for clusters at a site: `cluster`. Wiring only; the work is done by the site's service."""

import time
import uuid as uuids
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from catalog.errors import Misused
from deployer.cli.site.options import ReasonOption, SiteOption, open_client
from deployer.cli.site.published_clusters import published_app
from signer.documents import Document, validate
from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE
from signer.runtime import terminal
from signer.runtime.terminal import Json
from signer.runtime.units import parse_duration

if TYPE_CHECKING:
    from deployer.site.model.records import SiteMachine
    from deployer.site.schema.clusters import ClusterDryRun, ClusterSummary, ClusterView

LOOK_EVERY = 1.0
"""Seconds between two looks at a cluster that is waited for: as often as the site itself looks after it."""

cluster_app = typer.Typer(no_args_is_help=True, help="Clusters: machines with roles that come up together.")
cluster_app.add_typer(published_app)

ClusterName = Annotated[str, typer.Argument(help="A cluster's name, its UUID, or the beginning of that.")]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until it is as asked, and show how it gets there.")
]
Timeout = Annotated[str, typer.Option(help="How long to wait at most, such as 30m; the cluster goes on after that.")]


@cluster_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A cluster document: TOML, or JSON where its name ends in .json.")],
    json: Json = False,
) -> None:
    """Read a cluster document, and say in which order its roles start."""
    from deployer.site.model.cluster import read_cluster

    document = read_cluster(file)
    rows = [
        (
            name,
            str(role.count) if role.quorum is None else f"{role.count}, at least {role.quorum}",
            role.image,
            ", ".join(document.before(name)) or "nobody",
            ", ".join(role.provides),
        )
        for name, role in document.roles.items()
    ]
    value = {"name": document.name, "sha256": document.digest, "document": _value(document)}
    shown = Group(
        f"cluster {document.name}, SHA-256 {document.digest}",
        terminal.table(("ROLE", "MEMBERS", "IMAGE", "WAITS FOR", "PROVIDES"), rows),
    )
    terminal.show(value, shown, as_json=json)


@cluster_app.command("deploy")
def deploy(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            help="A cluster document's file (TOML, or .json), or the name of a published one, VO/NAME@VERSION or VO/NAME.",
            metavar="FILE|VO/NAME@VERSION",
        ),
    ],
    name: Annotated[str, typer.Option(help="Its name, instead of the document's.")] = "",
    key: Annotated[str, typer.Option(help="Idempotency key: the same one gives the same cluster.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would come of it.")] = False,
    wait: WaitOption = True,
    timeout: Timeout = "1h",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Order a cluster, and wait until it is ready. Ends with 1 if it failed."""
    from deployer.site.client.clusters import ClusterClient
    from deployer.site.schema.clusters import ClusterRequest

    seconds = _seconds(timeout)
    order = validate(ClusterRequest, _wanted(what) | ({"name": name} if name else {}), "order")
    with open_client(context, site) as asked:
        clusters = ClusterClient(asked)
        if dry_run:
            _show_trial(clusters.try_out(order), as_json=json)
            return
        made = clusters.create(order, key or str(uuids.uuid4()))
        if wait:
            made = _until(lambda: clusters.get(made.uuid), _settled, seconds)
    _show(made, as_json=json)
    if made.phase in _FAILED:
        raise typer.Exit(1)


@cluster_app.command("list")
def list_clusters(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    vo: Annotated[str, typer.Option(help="Only of people of this VO.")] = "",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """List clusters, the newest first: those that you may see."""
    from deployer.site.client.clusters import ClusterClient

    with open_client(context, site) as asked:
        found = list(ClusterClient(asked).all(vo=vo, active="" if every else "true"))
    terminal.show([_value(one) for one in found], _table(found), as_json=json)


@cluster_app.command("status")
def status(
    context: typer.Context,
    cluster: ClusterName,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until it is ready, or has failed or ended.")] = False,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Show how a cluster is doing: its roles, its members, and what it waits for."""
    from deployer.site.client.clusters import ClusterClient

    with open_client(context, site) as asked:
        clusters = ClusterClient(asked)
        found = clusters.get(cluster)
        if watch:
            found = _until(lambda: clusters.get(found.uuid), _settled, float("inf"))
    _show(found, as_json=json)


@cluster_app.command("scale")
def scale(
    context: typer.Context,
    cluster: ClusterName,
    role: Annotated[str, typer.Argument(help="Which of its roles.")],
    count: Annotated[int, typer.Argument(help="How many members it should have.", min=0)],
    reason: ReasonOption = "",
    wait: WaitOption = True,
    timeout: Timeout = "1h",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Have more or fewer members in a role; those that leave are asked to power off, the last numbers first."""
    from deployer.site.client.clusters import ClusterClient
    from deployer.site.schema.clusters import ScaleRequest

    seconds = _seconds(timeout)
    wanted = validate(ScaleRequest, {"role": role, "count": count, "reason": reason}, "scaling")

    def there(one: "ClusterView") -> bool:
        living = sum(machine.role == role and not machine.state.final for machine in one.members)
        return _settled(one) and living <= count

    with open_client(context, site) as asked:
        clusters = ClusterClient(asked)
        found = clusters.scale(cluster, wanted)
        if wait:
            found = _until(lambda: clusters.get(found.uuid), there, seconds)
    _show(found, as_json=json)


@cluster_app.command("replace")
def replace(
    context: typer.Context,
    cluster: ClusterName,
    member: Annotated[str, typer.Argument(help="A member's host name, its machine's UUID, or the beginning of that.")],
    reason: ReasonOption = "",
    wait: WaitOption = True,
    timeout: Timeout = "1h",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Have another machine in a member's place; how often it failed is forgotten."""
    from deployer.site.client.clusters import ClusterClient
    from deployer.site.schema.clusters import ReplaceRequest

    seconds = _seconds(timeout)
    wanted = validate(ReplaceRequest, {"member": member, "reason": reason}, "replacing")
    with open_client(context, site) as asked:
        clusters = ClusterClient(asked)
        found = clusters.replace(cluster, wanted)
        if wait:
            found = _until(lambda: clusters.get(found.uuid), _settled, seconds)
    _show(found, as_json=json)


@cluster_app.command("destroy")
def destroy(
    context: typer.Context,
    cluster: ClusterName,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    timeout: Timeout = "10m",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """End all members of a cluster now, and remove all that is left of them."""
    from deployer.site.client.clusters import ClusterClient

    seconds = _seconds(timeout)
    with open_client(context, site) as asked:
        clusters = ClusterClient(asked)
        found = clusters.destroy(cluster, reason)
        if wait:
            found = _until(lambda: clusters.get(found.uuid), lambda one: one.phase != "ending", seconds)
    terminal.show(_value(found), f"{found.name}: {found.phase.value}", as_json=json)


def _wanted(what: str) -> dict[str, object]:
    """What is ordered: the document of a file that is there, else what was published under that name."""
    from deployer.site.model.cluster import read_cluster

    file = Path(what)
    if file.is_file() or file.suffix in {".toml", ".json"} or "/" not in what:
        return {"document": _value(read_cluster(file))}
    return {"reference": what}


_FAILED = {"failed", "ended", "ending"}
_OVER = {"ready", *_FAILED}


def _settled(one: "ClusterView") -> bool:
    """Whether nothing more is on its way: it is ready, or over, or degraded and stays so until something changes."""
    if one.phase in _OVER:
        return True
    short = [role for role in one.status.values() if role.ready < role.wanted]
    stays = bool(short) and all(role.there == role.ready and role.why for role in short)
    return one.phase == "degraded" and stays


def _until(look: "Callable[[], ClusterView]", done: "Callable[[ClusterView], bool]", seconds: float) -> "ClusterView":
    """What is seen at last: when it is done, or the time is over. Meanwhile it is shown, where somebody looks."""
    ends = time.monotonic() + seconds
    with _screen() as show:
        while True:
            found = look()
            show(cluster_text(found))
            left = ends - time.monotonic()
            if done(found) or left <= 0:
                return found
            time.sleep(min(LOOK_EVERY, left))


@contextmanager
def _screen() -> Iterator[Callable[[RenderableType], None]]:
    """Something that is drawn over itself on standard error; nothing where that is no terminal."""
    if not terminal.err.is_terminal:
        yield lambda _: None
        return
    with Live(console=terminal.err, transient=True, auto_refresh=False) as live:
        yield lambda text: live.update(text, refresh=True)


def cluster_text(one: "ClusterView") -> RenderableType:
    """A cluster for people: how far it is, its roles, its members."""
    head = f"{one.name} ({one.uuid[:8]}) is {one.phase.value}{f': {one.reason}' if one.reason else ''}"
    roles = [
        (
            name,
            f"{role.ready} of {role.wanted}",
            role.there,
            ", ".join(role.waits_for),
            role.why,
        )
        for name, role in one.status.items()
    ]
    members = [_member(machine, one.failed.get(machine.uuid, "")) for machine in one.members]
    tables: list[RenderableType] = [terminal.table(("ROLE", "READY", "THERE", "WAITS FOR", "LACKS"), roles)]
    if members:
        columns = ("HOST NAME", "UUID", "STATE", "ADDRESSES", "STAGED", "REASON")
        tables += ["", terminal.table(columns, members)]
    return Group(terminal.printable(head), "", *tables)


def _member(machine: "SiteMachine", failed: str) -> tuple[str, ...]:
    state = "waits for others" if machine.withheld else machine.state.value
    if machine.ready is not None and not machine.state.final:
        state += f", {machine.ready}"
    staged = (
        f"{terminal.format_size(machine.fetched)} of {terminal.format_size(machine.total)}" if machine.total else ""
    )
    reason = failed or machine.reason or machine.want_reason
    return (machine.hostname, machine.uuid[:8], state, ", ".join(machine.known), staged, reason)


def _show_trial(one: "ClusterDryRun", *, as_json: bool) -> None:
    """What would come of a cluster; ends with 3 where the policy refuses it, and with 5 where it has no room now."""
    rows = [
        (
            name,
            "accepted" if role.accepted else "refused",
            f"{role.placed} of {role.wanted}",
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
    columns = ("ROLE", "POLICY", "ROOM", "STARTS", "READY", "IN THE WAY")
    text = Group(*map(terminal.printable, words), "", terminal.table(columns, rows))
    terminal.show(_value(one), text, as_json=as_json)
    if not one.accepted:
        raise typer.Exit(EXIT_REFUSED)
    if not one.placed or one.problems:
        raise typer.Exit(EXIT_UNAVAILABLE)


def _in(seconds: float | None) -> str:
    return "unknown" if seconds is None else "at once" if seconds == 0 else f"in {seconds:.0f} s"


def _show(one: "ClusterView", *, as_json: bool) -> None:
    terminal.show(_value(one), cluster_text(one), as_json=as_json)


def _table(found: "list[ClusterSummary]") -> object:
    rows = [
        (
            one.uuid[:8],
            one.name,
            one.phase.value,
            ", ".join(f"{count} {role}" for role, count in one.roles.items()),
            one.owner.subject,
            _minute(one.ends),
            one.reason,
        )
        for one in found
    ]
    columns = ("UUID", "NAME", "PHASE", "MEMBERS", "OWNER", "ENDS", "REASON")
    return terminal.table(columns, rows) if rows else "no clusters"


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")


def _seconds(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise Misused(f"--timeout: {exc}") from exc


def _value(document: Document) -> dict[str, object]:
    return document.model_dump(mode="json", exclude_none=True)
