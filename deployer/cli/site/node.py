"""The commands `partita site nodes|node|drain|undrain|remove`. Wiring only; the site's service does the work."""

from typing import Annotated

import typer

from deployer.cli.arguments import to_json
from deployer.cli.site.options import NodeName, ReasonOption, SiteOption, open_client
from signer.runtime import terminal

site_node_app = typer.Typer()


@site_node_app.command("nodes")
def site_nodes(context: typer.Context, site: SiteOption = "") -> None:
    """List the site's nodes."""
    with open_client(context, site) as client:
        nodes = client.nodes()
    size = terminal.format_size
    rows = [
        (
            one.name,
            one.uuid[:8],
            one.state.value,
            f"{one.capacity.cores} cores, {size(one.capacity.memory)}, {size(one.capacity.disk)} disk",
            ", ".join(f"{name}={value}" for name, value in sorted(one.labels.items())),
            one.reported.strftime("%Y-%m-%d %H:%M:%S UTC") if one.reported else "never",
            one.problem,
        )
        for one in nodes
    ]
    columns = ("NAME", "UUID", "STATE", "HAS", "LABELS", "LAST REPORT", "PROBLEM")
    shown = terminal.table(columns, rows) if rows else "no nodes; get a token for one with `partita site token`"
    terminal.show([to_json(one) for one in nodes], shown)


@site_node_app.command("node")
def site_node(context: typer.Context, node: NodeName, site: SiteOption = "") -> None:
    """Show the site's full record of a node."""
    with open_client(context, site) as client:
        value = to_json(client.node(node))
    terminal.show(value, terminal.table(("FIELD", "VALUE"), list(value.items())))


@site_node_app.command("drain")
def site_drain(
    context: typer.Context,
    node: NodeName,
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate its stopped and suspended machines.")] = False,
    reason: ReasonOption = "",
    site: SiteOption = "",
) -> None:
    """Place no more machines on a node; those that it has keep running."""
    _change_node(context, node, "drain", reason, site, migrate=migrate)


@site_node_app.command("undrain")
def site_undrain(context: typer.Context, node: NodeName, reason: ReasonOption = "", site: SiteOption = "") -> None:
    """Place machines on a drained node again."""
    _change_node(context, node, "undrain", reason, site)


@site_node_app.command("remove")
def site_remove(context: typer.Context, node: NodeName, reason: ReasonOption = "", site: SiteOption = "") -> None:
    """Remove a node for good; its certificate is refused from then on."""
    _change_node(context, node, "remove", reason, site)


def _change_node(
    context: typer.Context, node: str, verb: str, reason: str, site: str, *, migrate: bool = False
) -> None:
    with open_client(context, site) as client:
        found = client.do_node(node, verb, reason, migrate=migrate)
    terminal.show(to_json(found), f"{found.name}: {found.state.value}")
