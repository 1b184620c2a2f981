"""The commands `partita node`. Wiring only; the work is done by the node's service."""

from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Misused
from deployer.cli.node.options import node_client
from deployer.cli.node.staging import format_staging, staging_app, watch_staging
from deployer.node.schema.orders import NodeStatus
from deployer.node.settings import DeploySettings
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging
from signer.runtime.terminal import Json
from stager.cli.cache import cache_app
from stager.settings import NodeSettings

node_app = typer.Typer(no_args_is_help=True, help="The node's service: it stages, boots and keeps machines.")
node_app.add_typer(cache_app, name="cache")
node_app.add_typer(staging_app)


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


@node_app.command("join")
def node_join(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The site, such as https://site.example.org:7443.")],
    token: Annotated[str, typer.Argument(help="What its operator got with `partita site token`.")],
    name: Annotated[str, typer.Option(help="What the node is called there; its host name if not given.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Forget the site that the node belongs to.")] = False,
    json: Json = False,
) -> None:
    """Let this node work for a site: it gets a certificate, and machines from there. A running node takes note."""
    from deployer.pki.ca import validity_period
    from deployer.site.client.node_join import CREDENTIALS_DIRECTORY, join_site

    settings = terminal.section(context, NodeSettings)
    place = settings.directory / CREDENTIALS_DIRECTORY
    if place.exists() and not again:
        raise Misused(f"{place}: this node belongs to a site already; give --again to leave that and join another")
    joined = join_site(place, url, token, name, settings.labels)
    until = validity_period(joined.certificate.encode())[1].astimezone(UTC)
    value = {"node": joined.node, "name": joined.name, "url": url, "certificate_until": until.isoformat()}
    text = f"joined {url} as {joined.name} ({joined.node}); the certificate holds until {until:%Y-%m-%d} and is renewed"
    terminal.show(value, text, as_json=json)
