"""The command line: mounts each package's commands under one name, and turns errors into one sentence and an exit code.

This is the only module that knows all four packages.
"""

import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from catalog import cli as catalog_cli
from catalog.cli_hepix import export_app, import_app
from catalog.cli_image import image_app
from catalog.cli_revoke import revoke_app
from catalog.cli_tuf import mirror, tuf_app, tuf_client_app
from catalog.errors import CatalogError
from catalog.settings import CatalogSettings
from deployer import cli as deployer_cli
from deployer.cli_records import audit_app, receipt_app
from deployer.cli_stratuslab import import_stratuslab
from deployer.cli_trials import policy_app
from deployer.ec2.cli import ec2_app
from deployer.ec2.settings import Ec2Settings
from deployer.errors import DeployerError
from deployer.settings import DeploySettings
from deployer.site.cli import site_app
from deployer.site.cli_cluster import cluster_app
from deployer.site.cli_deployment import deployment_app
from deployer.site.cli_join import node_join
from deployer.site.cli_rights import rights_app
from deployer.site.settings import SiteSettings
from signer import cli as signer_cli
from signer import terminal
from signer.documents import Document
from signer.errors import SignerError
from signer.keys import SignerSettings
from signer.settings import Settings, default_file, load
from signer.terminal import Json
from stager.cli_seed import seed
from stager.errors import StagerError
from stager.settings import NodeSettings

SECTIONS: dict[str, type[Document]] = {
    "signer": SignerSettings,
    "catalog": CatalogSettings,
    "node": NodeSettings,
    "deploy": DeploySettings,
    "site": SiteSettings,
    "ec2": Ec2Settings,
}

app = typer.Typer(name="partita", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
config_app = typer.Typer(no_args_is_help=True, help="Settings: what is in force, and where each value comes from.")

app.add_typer(signer_cli.key_app, name="key")
app.add_typer(image_app, name="image")
app.command("endorse")(catalog_cli.endorse_command)
app.add_typer(revoke_app)
app.command("publish")(catalog_cli.publish_command)
app.add_typer(catalog_cli.vo_app, name="vo")
app.add_typer(catalog_cli.catalog_app, name="catalog")
catalog_cli.catalog_app.add_typer(export_app, name="export")
catalog_cli.catalog_app.add_typer(import_app, name="import")
catalog_cli.catalog_app.add_typer(tuf_app, name="tuf")
catalog_cli.catalog_app.command("seed")(seed)
catalog_cli.catalog_app.command("mirror")(mirror)
app.add_typer(tuf_client_app, name="tuf-client")
app.add_typer(policy_app, name="policy")
policy_app.command("import-stratuslab")(import_stratuslab)
app.add_typer(receipt_app, name="receipt")
app.add_typer(audit_app, name="audit")
app.add_typer(deployer_cli.node_app, name="node")
deployer_cli.node_app.command("join")(node_join)
app.command("deploy")(deployer_cli.deploy)
app.add_typer(deployer_cli.machine_app, name="machine")
app.command("up")(deployer_cli.up)
site_app.add_typer(rights_app)
app.add_typer(site_app)
app.add_typer(deployment_app, name="deployment")
app.add_typer(cluster_app, name="cluster")
app.add_typer(ec2_app, name="ec2")
app.add_typer(config_app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"partita {version('partita')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="The settings file, instead of the usual place.", metavar="FILE")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, over file and environment.", metavar="SECTION.FIELD=VALUE"),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Virtual-machine images as signed sets of partitions, and the way to get them running where rules allow it."""
    del show_version
    context.obj = load(
        SECTIONS, file=config or default_file(), environ=os.environ, flags=settings or (), required=config is not None
    )


@config_app.command("show")
def config_show(context: typer.Context, json: Json = False) -> None:
    """Show every setting, its value and its origin: default, file, environment or flag."""
    settings: Settings = context.obj
    rows = {
        f"{name}.{key}": (value, settings.origins[f"{name}.{key}"])
        for name, section in settings.sections.items()
        for key, value in section.model_dump(mode="json").items()
    }
    terminal.show(
        {name: {"value": value, "origin": origin} for name, (value, origin) in rows.items()},
        terminal.table(
            ("SETTING", "VALUE", "ORIGIN"), [(name, value, origin) for name, (value, origin) in rows.items()]
        ),
        as_json=json,
    )


def _terminated(*_signal_and_frame: object) -> None:
    """Leave as Ctrl-C does, so that what a command holds or has half made is let go and removed."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; exit codes are in signer.errors and docs/operations.md."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except (SignerError, CatalogError, StagerError, DeployerError) as error:
        sys.stderr.write(f"partita: {terminal.printable(str(error))}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output went away; nothing more can be said, and it is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
