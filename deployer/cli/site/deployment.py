"""The commands `partita deployment`, and `partita deploy --site`. Wiring only; the site's service does the work."""

import uuid as uuids
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli import arguments
from deployer.cli.arguments import to_json
from deployer.cli.site.machine import machine_table
from deployer.cli.site.options import KeyOption, SiteOption, VoOption, open_client
from deployer.errors import Refused
from signer.documents import validate
from signer.runtime import terminal

if TYPE_CHECKING:
    from deployer.site.schema.messages import DeploymentCreated, DryRunResult
    from deployer.site.schema.views import DeploymentView

deployment_app = typer.Typer(no_args_is_help=True, help="Order machines at a site, several at once.")

DeploymentName = Annotated[str, typer.Argument(help="A deployment's UUID, or the beginning of one.")]


@deployment_app.command("create")
@arguments.with_order_options
def deployment_create(
    context: typer.Context,
    order: dict[str, Any],
    spread: Annotated[bool, typer.Option("--spread", help="Fill the emptiest nodes first, not the fullest.")] = False,
    some: Annotated[
        bool, typer.Option("--some", help="Run as many as there is capacity for, not all or none.")
    ] = False,
    label: Annotated[
        list[str] | None, typer.Option(help="Only nodes with this label; repeatable.", metavar="NAME=VALUE")
    ] = None,
    where: Annotated[str, typer.Option(help="local, ec2 or local-then-ec2.")] = "local",
    key: KeyOption = "",
    dry_run: arguments.DryRunOption = False,
    site: SiteOption = "",
) -> None:
    """Order machines of an image at a site."""
    options = {
        "strategy": "spread" if spread else "pack",
        "whole": not some,
        "labels": dict(_pairs(label or ())),
        "where": where,
    }
    order_at_site(context, order | {"placement_options": options}, site, key, dry_run=dry_run)


def order_at_site(context: typer.Context, order: dict[str, Any], site: str, key: str, *, dry_run: bool) -> None:
    """Order machines at a site; `order` has the members of a DeploymentRequest."""
    from deployer.protocol.deployment_request import DeploymentRequest

    request = validate(DeploymentRequest, order, "order")
    with open_client(context, site) as client:
        if dry_run:
            trial = client.trial(request)
            terminal.show(to_json(trial), _trial_text(trial))
            if not (trial.accepted and trial.placed):
                raise typer.Exit(Refused.exit_code)
            return
        try:
            ordered = client.create(request, key or str(uuids.uuid4()))
        except Refused as refused:
            if refused.decision is not None:
                rules = terminal.table(("WHAT", "WHY"), _rules(dict(refused.decision)))
                terminal.show(dict(refused.decision), rules)
            raise
    terminal.show(to_json(ordered), _ordered_text(ordered))


@deployment_app.command("list")
def deployment_list(context: typer.Context, vo: VoOption = "", site: SiteOption = "") -> None:
    """List the deployments that you may see, the newest first."""
    with open_client(context, site) as client:
        found = list(client.deployments(vo=vo))
    terminal.show([to_json(one) for one in found], _table(found))


@deployment_app.command("show")
def deployment_show(context: typer.Context, deployment: DeploymentName, site: SiteOption = "") -> None:
    """Show a deployment and its machines."""
    with open_client(context, site) as client:
        ordered = client.deployment(deployment)
    terminal.show(to_json(ordered), _ordered_text(ordered))


@deployment_app.command("explain")
def deployment_explain(context: typer.Context, deployment: DeploymentName, site: SiteOption = "") -> None:
    """Show why a deployment was admitted, rule by rule, and why its machines run where they do."""
    with open_client(context, site) as client:
        found = client.explain(deployment)
    rows = [("policy", found.policy), *_rules(found.decision), *(("placement", line) for line in found.placement)]
    terminal.show(to_json(found), terminal.table(("WHAT", "WHY"), rows))


@deployment_app.command("hosts")
def deployment_hosts(context: typer.Context, deployment: DeploymentName, site: SiteOption = "") -> None:
    """Print the SSH host keys of a deployment's machines, as lines for known_hosts."""
    with open_client(context, site) as client:
        found = client.known_hosts(deployment)
    terminal.show({"known_hosts": found.splitlines()}, terminal.printable(found.rstrip()))


@deployment_app.command("destroy")
def deployment_destroy(context: typer.Context, deployment: DeploymentName, site: SiteOption = "") -> None:
    """End all machines of a deployment now, and remove their disks."""
    with open_client(context, site) as client:
        ordered = client.destroy_deployment(deployment)
    text = f"{ordered.deployment.uuid}: {len(ordered.machines)} machines are being ended"
    terminal.show(to_json(ordered), text)


def _rules(decision: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"rule {rule['name']}", ("" if rule["passed"] else "REFUSES: ") + str(rule["reason"]))
        for rule in decision.get("rules", ())
    ]


def _trial_text(trial: "DryRunResult") -> object:
    seconds = "unknown" if trial.seconds is None else f"about {trial.seconds:.0f} s"
    rows = [
        ("image", f"{trial.title} ({trial.image_id})"),
        ("accepted", "yes" if trial.accepted else "no"),
        *_rules(trial.decision),
        ("capacity", "yes" if trial.placed else "no"),
        *(("placement", line) for line in trial.placement),
        *(("to fetch", f"{terminal.format_size(count)} by {node[:8]}") for node, count in trial.fetch.items()),
        ("until they run", seconds),
    ]
    return terminal.table(("WHAT", "IS"), rows)


def _ordered_text(ordered: "DeploymentCreated") -> object:
    from rich.console import Group
    from rich.text import Text

    one = ordered.deployment
    head = f"{one.uuid}: {one.title}, {len(ordered.machines)} machines until {arguments.minute(one.expires)}"
    return Group(Text(terminal.printable(head)), machine_table(list(ordered.machines)))  # type: ignore[arg-type]


def _table(found: "list[DeploymentView]") -> object:
    rows = [
        (
            one.uuid[:8],
            one.title,
            one.request.count,
            one.owner.subject,
            one.owner.vo,
            arguments.minute(one.created),
            arguments.minute(one.expires),
        )
        for one in found
    ]
    columns = ("UUID", "IMAGE", "COUNT", "OWNER", "VO", "ORDERED", "EXPIRES")
    return terminal.table(columns, rows) if rows else "no deployments"


def _pairs(texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise Misused(f"--label {text}: write it as NAME=VALUE")
        yield name, value
