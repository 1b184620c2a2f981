"""The commands `partita site nodes|node|drain|undrain|remove`. Wiring only; the work is done by the service."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployer.cli.site.options import NodeName, ReasonOption, SiteOption, open_client, to_json
from signer.runtime import terminal
from signer.runtime.terminal import Json

if TYPE_CHECKING:
    from deployer.site.model.records import SiteNode

site_node_app = typer.Typer()


@site_node_app.command("nodes")
def site_nodes(context: typer.Context, site: SiteOption = "", json: Json = False) -> None:
    """List the site's nodes."""
    with open_client(context, site) as asked:
        nodes = asked.nodes()
    terminal.show([to_json(one) for one in nodes], _node_table(nodes), as_json=json)


@site_node_app.command("node")
def site_node(context: typer.Context, node: NodeName, site: SiteOption = "", json: Json = False) -> None:
    """Show all that the site knows of a node."""
    with open_client(context, site) as asked:
        found = asked.node(node)
    value = to_json(found)
    rows = [(key, entry) for key, entry in value.items()]
    terminal.show(value, terminal.table(("FIELD", "VALUE"), rows), as_json=json)


@site_node_app.command("drain")
def site_drain(
    context: typer.Context,
    node: NodeName,
    move: Annotated[bool, typer.Option("--move", help="Machines that rest there go to other nodes.")] = False,
    reason: ReasonOption = "",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Give a node no more machines; those that it has go on."""
    _act_node(context, node, "drain", reason, site, as_json=json, move=move)


@site_node_app.command("undrain")
def site_undrain(
    context: typer.Context, node: NodeName, reason: ReasonOption = "", site: SiteOption = "", json: Json = False
) -> None:
    """Use a node again."""
    _act_node(context, node, "undrain", reason, site, as_json=json)


@site_node_app.command("remove")
def site_remove(
    context: typer.Context, node: NodeName, reason: ReasonOption = "", site: SiteOption = "", json: Json = False
) -> None:
    """Take a node out for good: its certificate is worth nothing any more."""
    _act_node(context, node, "remove", reason, site, as_json=json)


def _node_table(nodes: "tuple[SiteNode, ...]") -> object:
    rows = [
        (
            one.name,
            one.uuid[:8],
            one.state.value,
            f"{one.capacity.cores} cores, {terminal.format_size(one.capacity.memory)}, {terminal.format_size(one.capacity.disk)} disk",
            ", ".join(f"{name}={value}" for name, value in sorted(one.labels.items())),
            one.reported.strftime("%Y-%m-%d %H:%M:%S UTC") if one.reported else "never",
            one.problem,
        )
        for one in nodes
    ]
    columns = ("NAME", "UUID", "STATE", "HAS", "LABELS", "LAST REPORT", "PROBLEM")
    return terminal.table(columns, rows) if rows else "no nodes; `partita site token` lets one join"


def _act_node(
    context: typer.Context, node: str, verb: str, reason: str, site: str, *, as_json: bool, move: bool = False
) -> None:
    with open_client(context, site) as asked:
        found = asked.do_node(node, verb, reason, move=move)
    terminal.show(to_json(found), f"{found.name}: {found.state.value}", as_json=as_json)
