"""The commands `machine`, `node` and `up`. Wiring only; the work is done by the node's service."""

import json as json_text
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import Misused
from catalog.settings import CatalogSettings
from deployer.cli.arguments import MachineArgument, print_console
from deployer.cli.node import exposure as cli_site
from deployer.cli.node import machine as cli_machine
from deployer.cli.node.machine import record_summary
from deployer.cli.node.staging import add_staging_commands, format_staging, watch_staging
from deployer.node.client import NodeClient
from deployer.node.schema.orders import NodeStatus
from deployer.node.settings import DeploySettings
from deployer.records.machine_store import MachineRecord
from deployer.site.settings import SiteSettings
from deployer.web.socket_paths import MAX_SOCKET, short_socket_path
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging
from signer.runtime.terminal import Json
from stager.cli.cache import cache_app
from stager.settings import NodeSettings

machine_app = typer.Typer(no_args_is_help=True, help="Machines: look at them, change them, end them.")
node_app = typer.Typer(no_args_is_help=True, help="The node's service: it stages, boots and keeps machines.")
node_app.add_typer(cache_app, name="cache")


def node_client(context: typer.Context) -> NodeClient:
    """A client of the node that the settings name."""
    settings, deploy_settings = terminal.section(context, NodeSettings), terminal.section(context, DeploySettings)
    return NodeClient(deploy_settings.socket or short_socket_path(settings.directory, "node.sock", MAX_SOCKET))


add_staging_commands(node_app, node_client)
cli_machine.add_machine_commands(machine_app, node_client)
cli_site.add_exposure_commands(node_client)


@machine_app.command("list")
def list_node_machines(context: typer.Context, json: Json = False) -> None:
    """List the node's machines, the oldest first."""
    with node_client(context) as node:
        machines = node.machines()
    terminal.show([record_summary(record) for record in machines], _table(machines), as_json=json)


@machine_app.command("show")
def show_node_machine(context: typer.Context, name: MachineArgument, json: Json = False) -> None:
    """Show all that the node knows of a machine."""
    with node_client(context) as node:
        record = node.machine(name)
    value = record.model_dump(mode="json", exclude_none=True)
    rows = [(key, json_text.dumps(entry) if isinstance(entry, dict) else entry) for key, entry in value.items()]
    terminal.show(value, terminal.table(("FIELD", "VALUE"), rows), as_json=json)


@machine_app.command("console")
def print_node_console(
    context: typer.Context,
    name: MachineArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine has ended.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The guest's very bytes, terminal control included.")] = False,
    json: Json = False,
) -> None:
    """Print what a machine's guest wrote to its console."""
    with node_client(context) as node:
        if json:
            text = b"".join(node.console(name)).decode(errors="replace")
            terminal.show({"console": text}, "", as_json=True)
            return
        print_console(node.console(name, follow=follow), raw=raw)


@machine_app.command("shutdown")
def shut_down_machine(
    context: typer.Context,
    name: MachineArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Until the guest has powered off.")] = False,
    timeout: Annotated[int, typer.Option(help="Seconds to wait at most.", min=1)] = 60,
    json: Json = False,
) -> None:
    """Ask a machine's guest to power off."""
    with node_client(context) as node:
        record = node.shutdown(name, float(timeout) if wait else 0.0)
    done = record.state.value if wait else "asked to power off"
    terminal.show(record_summary(record), f"{record.name}: {done}", as_json=json)
    if wait and record.state.value == "running":
        raise typer.Exit(1)


@machine_app.command("destroy")
def destroy_machine(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Machines, by UUID, its beginning, or name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All machines of the node.")] = False,
    json: Json = False,
) -> None:
    """End machines now, and remove all that is left of them, consoles included."""
    if bool(names) == every:
        raise Misused("name the machines to destroy, or give --all")
    with node_client(context) as node:
        wanted = [record.uuid for record in node.machines()] if every else names or []
        gone = [node.destroy(name) for name in wanted]
    text = "\n".join(f"{record.name}: destroyed" for record in gone) or "there is no machine"
    terminal.show([record_summary(record) for record in gone], text, as_json=json)


@node_app.command("serve")
def node_serve(
    context: typer.Context,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the socket's path here when the node answers.", metavar="FILE")
    ] = None,
    end_machines: Annotated[
        bool, typer.Option("--end-machines", help="Destroy all machines when the service ends; else they go on.")
    ] = False,
    json: Json = False,
) -> None:
    """Run the node's service until it is told to end."""
    from deployer.node.daemon import serve_node  # loads libvirt and all four packages: only here

    configure_logging(terminal.section(context, LogSettings))

    def ready(socket: Path, status: NodeStatus) -> None:
        text = f"node ready at {socket}; {status.hypervisor}; {status.accelerator.reason}"
        if status.policy_problem:
            text += f"\n{status.policy_problem}"
        value = {"socket": str(socket)} | status.model_dump(mode="json", exclude_none=True)
        terminal.show(value, text, as_json=json)
        if ready_file is not None:
            files.write(ready_file, f"{socket}\n", sync=None)

    serve_node(
        terminal.section(context, NodeSettings),
        terminal.section(context, DeploySettings),
        ready,
        end_machines=end_machines,
    )


@node_app.command("trust-root")
def node_trust_root(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="The catalog's root.json, got from its operator by a way that you trust.")
    ],
    json: Json = False,
) -> None:
    """Pin the root that says what is current; the node believes its catalog by nothing else. A running node takes note."""
    from catalog.client.trusted import pin_root  # loads the TUF library: only here

    settings = terminal.section(context, NodeSettings)
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise Misused(f"{file}: cannot be read: {exc.strerror}") from exc
    digest = pin_root(settings.freshness / "root.json", data)
    text = f"pinned; compare this with the catalog's operator: SHA-256 {digest}"
    terminal.show({"root": str(settings.freshness / "root.json"), "sha256": digest}, text, as_json=json)


@node_app.command("status")
def node_status(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show what is arriving, again and again, until nothing is.")
    ] = False,
    json: Json = False,
) -> None:
    """Show how the node is doing: what it runs on, by which policy, how many machines, and what is arriving."""
    with node_client(context) as node:
        if watch:
            watch_staging(node, as_json=json)
        status, staging = node.status(), node.staging()
    rows = [
        ("node", status.node),
        ("directory", status.directory),
        ("catalog", status.catalog),
        ("current", status.fresh_problem or f"known until {status.fresh_until or 'the first order'}"),
        ("policy", f"{status.policy} ({status.policy_digest})" if status.policy_digest else "none is in force"),
        *([("", f"not in force as its files are: {status.policy_problem}")] if status.policy_problem else []),
        *([("shadow", status.shadow_digest)] if status.shadow_digest else []),
        ("audit log", status.audit),
        ("hypervisor", status.hypervisor),
        ("accelerator", status.accelerator.reason),
        *([("site", status.site_problem or status.site)] if status.site_problem or status.site else []),
        ("machines", ", ".join(f"{count} {state}" for state, count in status.machines.items()) or "none"),
        *format_staging(staging),
    ]
    value = status.model_dump(mode="json", exclude_none=True) | {
        "staging": staging.model_dump(mode="json", exclude_none=True)
    }
    terminal.show(value, terminal.table(("WHAT", "IS"), rows), as_json=json)


def up(
    context: typer.Context,
    directory: Annotated[
        Path | None, typer.Option(help="Where both keep their state; the settings' places if not given.", metavar="DIR")
    ] = None,
    keep_machines: Annotated[
        bool, typer.Option("--keep-machines", help="Leave machines running at the end; else they are destroyed.")
    ] = False,
    with_site: Annotated[bool, typer.Option("--site", help="Run a site's service too; the node joins it.")] = False,
    json: Json = False,
) -> None:
    """Run a catalog and a node here, in one terminal; Ctrl-C ends both."""
    from deployer.cli.node.up import run_both

    environment = dict(os.environ)
    if directory is not None:
        place = directory.absolute()
        environment |= {
            "PARTITA_CATALOG_DIRECTORY": str(place / "catalog"),
            "PARTITA_NODE_DIRECTORY": str(place / "node"),
            "PARTITA_SITE_DIRECTORY": str(place / "site"),
        }
    catalog = Path(environment.get("PARTITA_CATALOG_DIRECTORY") or terminal.section(context, CatalogSettings).directory)
    node_settings = terminal.section(context, NodeSettings)
    if not node_settings.pinned_root.exists():  # both are ours: the root goes from hand to hand
        environment["PARTITA_NODE_TUF_ROOT"] = str(catalog / "tuf" / "root.json")
    site_settings = terminal.section(context, SiteSettings)
    if not site_settings.pinned_root.exists():
        environment["PARTITA_SITE_TUF_ROOT"] = str(catalog / "tuf" / "root.json")
    if not site_settings.policy.exists():
        environment.setdefault("PARTITA_SITE_POLICY", str(terminal.section(context, DeploySettings).policy))
    node = Path(environment.get("PARTITA_NODE_DIRECTORY") or node_settings.directory)

    def join(url: str) -> None:
        """The node joins the site of the same terminal, unless it belongs to one."""
        from deployer.site.client.discovery import open_site_client
        from deployer.site.client.node_join import CREDENTIALS_DIRECTORY, join_site
        from deployer.site.schema.messages import JoinTokenRequest

        if (node / CREDENTIALS_DIRECTORY).exists():
            return
        place = Path(environment.get("PARTITA_SITE_DIRECTORY") or site_settings.directory)
        with open_site_client(site_settings.model_copy(update={"directory": place, "url": ""}), environment) as asked:
            token = asked.token(JoinTokenRequest()).token
        join_site(node / CREDENTIALS_DIRECTORY, url, token, labels=node_settings.labels)

    given: dict[str, Any] = context.parent.params if context.parent else {}
    sets, config = list(given.get("settings") or ()), given.get("config")
    run_both(environment, sets, config, keep_machines=keep_machines, as_json=json, site=join if with_site else None)


def _table(machines: list[MachineRecord]) -> object:
    rows = [
        (
            record.uuid[:8],
            record.name,
            record.state.value,
            record.title,
            f"{record.cores} x {terminal.format_size(record.memory)}",
            record.ends.strftime("%Y-%m-%d %H:%M UTC"),
            record.reason,
        )
        for record in machines
    ]
    return terminal.table(("UUID", "NAME", "STATE", "IMAGE", "SIZE", "ENDS", "REASON"), rows) if rows else "no machines"
