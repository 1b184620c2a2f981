"""The commands `partita node`. Wiring only; the node's service does the work."""

from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Misused
from deployer.cli.arguments import ReadyFile, RootFile, counts_text, pin_trust_root, to_json
from deployer.cli.node.options import node_client
from deployer.cli.node.staging import format_staging, staging_app, watch_staging
from deployer.node.schema.orders import NodeStatus
from deployer.node.settings import DeploySettings
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging
from stager.cli.cache import cache_app
from stager.settings import NodeSettings

node_app = typer.Typer(no_args_is_help=True, help="Run and inspect this machine's node, which stages and boots images.")
node_app.add_typer(cache_app, name="cache")
node_app.add_typer(staging_app)


@node_app.command("serve")
def node_serve(
    context: typer.Context,
    ready_file: ReadyFile = None,
    end_machines: Annotated[
        bool, typer.Option("--end-machines", help="Destroy all machines when the service ends; else they keep running.")
    ] = False,
) -> None:
    """Run the node's service until it gets SIGTERM or SIGINT."""
    from deployer.node.daemon import serve_node  # loads libvirt and all four packages: only here

    configure_logging(terminal.section(context, LogSettings))

    def ready(socket: Path, status: NodeStatus) -> None:
        text = f"node ready at {socket}; {status.hypervisor}; {status.accelerator.reason}"
        if status.policy_problem:
            text += f"\n{status.policy_problem}"
        terminal.show({"socket": str(socket)} | to_json(status), text)
        if ready_file is not None:
            files.write(ready_file, f"{socket}\n", sync=None)

    settings, deploy_settings = terminal.section(context, NodeSettings), terminal.section(context, DeploySettings)
    serve_node(settings, deploy_settings, ready, end_machines=end_machines)


@node_app.command("trust-root")
def node_trust_root(context: typer.Context, file: RootFile) -> None:
    """Pin the TUF root that the catalog's metadata is verified with. A running node notices this by itself."""
    pin_trust_root(file, terminal.section(context, NodeSettings).freshness / "root.json")


@node_app.command("status")
def node_status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Show arriving contents until all have arrived.")] = False,
) -> None:
    """Show the node's hypervisor, policy, machines and arriving contents."""
    with node_client(context) as node:
        if watch:
            watch_staging(node)
        status, staging = node.status(), node.staging()
    rows = [
        ("node", status.node),
        ("directory", status.directory),
        ("catalog", status.catalog),
        ("current", status.fresh_problem or f"known until {status.fresh_until or 'the first order'}"),
        ("policy", f"{status.policy} ({status.policy_digest})" if status.policy_digest else "no policy is in force"),
        *([("", f"the policy files are not in force: {status.policy_problem}")] if status.policy_problem else []),
        *([("shadow", status.shadow_digest)] if status.shadow_digest else []),
        ("audit log", status.audit),
        ("hypervisor", status.hypervisor),
        ("accelerator", status.accelerator.reason),
        *([("site", status.site_problem or status.site)] if status.site_problem or status.site else []),
        ("machines", counts_text(status.machines)),
        *format_staging(staging),
    ]
    terminal.show(to_json(status) | {"staging": to_json(staging)}, terminal.table(("WHAT", "IS"), rows))


@node_app.command("join")
def node_join(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The site, such as https://site.example.org:7443.")],
    token: Annotated[str, typer.Argument(help="A token that its operator got with `partita site token`.")],
    name: Annotated[str, typer.Option(help="The node's name at the site; by default its host name.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Leave the site that the node belongs to.")] = False,
) -> None:
    """Join a site: get a certificate, and machines from there. A running node notices this by itself."""
    from deployer.pki.ca import validity_period
    from deployer.site.client.node_join import CREDENTIALS_DIRECTORY, join_site

    settings = terminal.section(context, NodeSettings)
    place = settings.directory / CREDENTIALS_DIRECTORY
    if place.exists() and not again:
        raise Misused(f"{place}: this node already belongs to a site; use --again to leave it and join another")
    joined = join_site(place, url, token, name, settings.labels)
    until = validity_period(joined.certificate.encode())[1].astimezone(UTC)
    value = {"node": joined.node, "name": joined.name, "url": url, "certificate_until": until.isoformat()}
    text = (
        f"joined {url} as {joined.name} ({joined.node}); the certificate is valid until {until:%Y-%m-%d} and is renewed"
    )
    terminal.show(value, text)


@node_app.command("exposure")
def node_exposure(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(help="An image (ID, VO/NAME or VO/NAME@VERSION), a fingerprint, or x509:SUBJECT; else all.")
    ] = "",
) -> None:
    """List running machines that use an image or rely on a key, and those affected by revocations."""
    with node_client(context) as client:
        found = client.exposure(target)
    rows = [
        [one.name, one.title, one.state.value, "affected" if one.affected else "", one.reason] for one in found.machines
    ]
    shown = terminal.table(["MACHINE", "IMAGE", "STATE", "", "WHY"], rows) if rows else "no running machines"
    terminal.show(found.model_dump(mode="json"), shown)
    if affected := sum(one.affected for one in found.machines):
        terminal.say(f"{affected} affected; action of the policy: {found.action}")
