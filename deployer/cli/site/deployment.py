"""Commands for whoever orders machines at a site: `deployment`, and `deploy --site`. Wiring only."""

import uuid as uuids
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli.arguments import encode_user_data, parse_blank, read_text_file
from deployer.cli.site.machine import machine_table
from deployer.cli.site.options import SiteOption, open_client
from deployer.errors import Refused
from deployer.protocol.machine_order import MachineOrder
from signer.documents import Document, validate
from signer.runtime import terminal
from signer.runtime.terminal import Json
from signer.runtime.units import parse_duration, parse_size

if TYPE_CHECKING:
    from deployer.protocol.deployment_request import DeploymentRequest
    from deployer.site.model.records import Deployment
    from deployer.site.schema.messages import DeploymentCreated, DryRunResult

deployment_app = typer.Typer(no_args_is_help=True, help="Machines ordered at a site, several at once.")

Uuid = Annotated[str, typer.Argument(help="A deployment's UUID, or the beginning of one.")]


@deployment_app.command("create")
def create(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="An image ID, VO/NAME@VERSION, or VO/NAME for its newest version.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many machines.")] = 1,
    memory: Annotated[str, typer.Option(help="Memory of each, such as 2GiB; what the image needs if not given.")] = "",
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of each; what the image needs if not given.")] = None,
    max_memory: Annotated[str, typer.Option(help="How far its memory may grow while it runs; not at all else.")] = "",
    max_cores: Annotated[int | None, typer.Option(min=1, help="How far its cores may; not at all else.")] = None,
    lifetime: Annotated[str, typer.Option(help="How long they live, such as 12h; the site's default else.")] = "",
    hostname: Annotated[str, typer.Option(help="Host name; with several machines a number is put after it.")] = "",
    network: Annotated[str, typer.Option(help="none, user, network:NAME or bridge:NAME.")] = "",
    user_data: Annotated[
        Path | None, typer.Option(help="What the guest's first boot runs: cloud-config or a script.", metavar="FILE")
    ] = None,
    public_key: Annotated[
        list[Path] | None, typer.Option(help="An OpenSSH public key for the guest's user.", metavar="FILE")
    ] = None,
    blank: Annotated[
        list[str] | None,
        typer.Option(help="An extra disk, made on the node.", metavar="SIZE[:FILESYSTEM[:LABEL]]"),
    ] = None,
    verify: Annotated[
        str, typer.Option(help="Right before boot: look at a sample of the contents, or hash them in full.")
    ] = "sample",
    spread: Annotated[bool, typer.Option("--spread", help="The emptiest nodes first, instead of the fullest.")] = False,
    some: Annotated[bool, typer.Option("--some", help="Take what there is room for, instead of all or none.")] = False,
    label: Annotated[list[str] | None, typer.Option(help="Only nodes with this label.", metavar="NAME=VALUE")] = None,
    where: Annotated[str, typer.Option(help="local, ec2 or local-then-ec2.")] = "local",
    key: Annotated[str, typer.Option(help="Idempotency key: the same one gives the same machines.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would come of it.")] = False,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Order machines of an image at a site."""
    from deployer.protocol.deployment_request import DeploymentRequest

    values: dict[str, Any] = {
        "image": image,
        "count": count,
        "memory": _amount(parse_size, memory, "--memory"),
        "cores": cores,
        "max_memory": _amount(parse_size, max_memory, "--max-memory"),
        "max_cores": max_cores,
        "lifetime": _amount(parse_duration, lifetime, "--lifetime"),
        "hostname": hostname or None,
        "network": network or None,
        "user_data": encode_user_data(user_data),
        "public_keys": [read_text_file(path).strip() for path in public_key or ()],
        "blanks": [parse_blank(text).model_dump(mode="json") for text in blank or ()],
        "verify": verify,
        "wishes": {
            "strategy": "spread" if spread else "pack",
            "whole": not some,
            "labels": dict(_pairs(label or ())),
            "where": where,
        },
    }
    request = validate(DeploymentRequest, {name: value for name, value in values.items() if value is not None}, "order")
    _ask(context, request, site, key, dry_run=dry_run, json=json)


def order_at_site(context: typer.Context, order: MachineOrder, site: str, *, dry_run: bool, json: bool) -> None:
    """Order at a site what would be ordered on this node."""
    from deployer.protocol.deployment_request import DeploymentRequest

    _ask(
        context,
        validate(DeploymentRequest, order.model_dump(mode="json", exclude_none=True), "order"),
        site,
        "",
        dry_run=dry_run,
        json=json,
    )


def _ask(
    context: typer.Context, request: "DeploymentRequest", site: str, key: str, *, dry_run: bool, json: bool
) -> None:
    with open_client(context, site) as asked:
        if dry_run:
            trial = asked.trial(request)
            terminal.show(_value(trial), _trial_text(trial), as_json=json)
            if not (trial.accepted and trial.placed):
                raise typer.Exit(Refused.exit_code)
            return
        try:
            ordered = asked.create(request, key or str(uuids.uuid4()))
        except Refused as refused:
            if refused.decision is not None:
                rules = terminal.table(("WHAT", "WHY"), _rules(dict(refused.decision)))
                terminal.show(dict(refused.decision), rules, as_json=json)
            raise
    terminal.show(_value(ordered), _ordered_text(ordered), as_json=json)


@deployment_app.command("list")
def list_deployments(
    context: typer.Context,
    vo: Annotated[str, typer.Option(help="Only of people of this VO.")] = "",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """List deployments, the newest first: those that you may see."""
    with open_client(context, site) as asked:
        found = list(asked.deployments(vo=vo))
    terminal.show([_value(one) for one in found], _table(found), as_json=json)


@deployment_app.command("show")
def show(context: typer.Context, deployment: Uuid, site: SiteOption = "", json: Json = False) -> None:
    """Show a deployment and its machines."""
    with open_client(context, site) as asked:
        ordered = asked.deployment(deployment)
    terminal.show(_value(ordered), _ordered_text(ordered), as_json=json)


@deployment_app.command("explain")
def explain(context: typer.Context, deployment: Uuid, site: SiteOption = "", json: Json = False) -> None:
    """Say why a deployment was admitted, rule by rule, and why its machines run where they do."""
    with open_client(context, site) as asked:
        found = asked.explain(deployment)
    rows = [("policy", found.policy), *_rules(found.decision), *(("placement", line) for line in found.placement)]
    terminal.show(_value(found), terminal.table(("WHAT", "WHY"), rows), as_json=json)


@deployment_app.command("hosts")
def hosts(context: typer.Context, deployment: Uuid, site: SiteOption = "", json: Json = False) -> None:
    """Print the SSH host keys of a deployment's machines, as lines for known_hosts."""
    with open_client(context, site) as asked:
        found = asked.known_hosts(deployment)
    terminal.show({"known_hosts": found.splitlines()}, terminal.printable(found.rstrip()), as_json=json)


@deployment_app.command("destroy")
def destroy(context: typer.Context, deployment: Uuid, site: SiteOption = "", json: Json = False) -> None:
    """End all machines of a deployment now, and remove all that is left of them."""
    with open_client(context, site) as asked:
        ordered = asked.destroy_deployment(deployment)
    text = f"{ordered.deployment.uuid}: {len(ordered.machines)} machines are being ended"
    terminal.show(_value(ordered), text, as_json=json)


def _rules(decision: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"rule {rule['name']}", ("" if rule["passed"] else "REFUSES: ") + str(rule["reason"]))
        for rule in decision.get("rules", ())
    ]


def _trial_text(trial: "DryRunResult") -> object:
    seconds = "nothing is known yet" if trial.seconds is None else f"about {trial.seconds:.0f} s"
    rows = [
        ("image", f"{trial.title} ({trial.image_id})"),
        ("accepted", "yes" if trial.accepted else "no"),
        *_rules(trial.decision),
        ("room", "yes" if trial.placed else "no"),
        *(("placement", line) for line in trial.placement),
        *(("to fetch", f"{terminal.format_size(count)} by {node[:8]}") for node, count in trial.fetch.items()),
        ("until they run", seconds),
    ]
    return terminal.table(("WHAT", "IS"), rows)


def _ordered_text(ordered: "DeploymentCreated") -> object:
    from rich.console import Group
    from rich.text import Text

    one = ordered.deployment
    head = f"{one.uuid}: {one.title}, {len(ordered.machines)} machines until {one.ends:%Y-%m-%d %H:%M} UTC"
    return Group(Text(terminal.printable(head)), machine_table(list(ordered.machines)))  # type: ignore[arg-type]


def _table(found: "list[Deployment]") -> object:
    rows = [
        (
            one.uuid[:8],
            one.title,
            one.request.count,
            one.owner.subject,
            one.owner.vo,
            one.created.strftime("%Y-%m-%d %H:%M UTC"),
            one.ends.strftime("%Y-%m-%d %H:%M UTC"),
        )
        for one in found
    ]
    columns = ("UUID", "IMAGE", "COUNT", "OWNER", "VO", "ORDERED", "ENDS")
    return terminal.table(columns, rows) if rows else "no deployments"


def _value(document: Document) -> dict[str, Any]:
    return document.model_dump(mode="json", exclude_none=True)


def _amount(parse: Any, text: str, option: str) -> int | None:
    try:
        return int(parse(text)) if text else None
    except ValueError as exc:
        raise Misused(f"{option}: {exc}") from exc


def _pairs(texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise Misused(f"--label {text}: write it as NAME=VALUE")
        yield name, value
