"""The command line: mounts each package's commands under one name, and turns errors into one sentence and an exit code.

This is the only module that knows all four packages.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from catalog.settings import CatalogSettings
from deployer.ec2.settings import Ec2Settings
from deployer.node.settings import DeploySettings
from deployer.site.settings import SiteSettings
from signer.documents import Document
from signer.errors import PartitaError
from signer.openpgp.keys import SignerSettings
from signer.runtime import terminal
from signer.runtime.log_config import LogSettings
from signer.runtime.settings import Settings, default_file, load_settings
from stager.settings import NodeSettings

SECTIONS: dict[str, type[Document]] = {
    "signer": SignerSettings,
    "catalog": CatalogSettings,
    "node": NodeSettings,
    "deploy": DeploySettings,
    "site": SiteSettings,
    "ec2": Ec2Settings,
    "log": LogSettings,
}


config_app = typer.Typer(no_args_is_help=True, help="Settings: what is in force, and where each value comes from.")


def _catalog() -> typer.Typer:
    from catalog.cli.backup import backup, restore
    from catalog.cli.catalog import catalog_app
    from catalog.cli.hepix import export_app, import_app
    from catalog.cli.tuf import tuf_app
    from stager.cli.seed import seed

    catalog_app.add_typer(export_app, name="export")
    catalog_app.add_typer(import_app, name="import")
    catalog_app.add_typer(tuf_app, name="tuf")
    catalog_app.command("seed")(seed)
    catalog_app.command("backup")(backup)
    catalog_app.command("restore")(restore)
    return catalog_app


def _site() -> typer.Typer:
    from deployer.cli.node.node import node_exposure
    from deployer.cli.site.site import site_app

    site_app.command("exposure", hidden=True)(node_exposure)  # its old name: it queries the node
    return site_app


def _at(module: str, name: str) -> Callable[[], Any]:
    """What a module calls so."""
    return lambda: getattr(importlib.import_module(module), name)


COMMANDS: dict[str, Callable[[], Any]] = {
    "key": _at("signer.cli", "key_app"),
    "image": _at("catalog.cli.publish", "image_app"),
    "endorse": _at("catalog.cli.publish", "endorse_command"),
    "revoke": _at("catalog.cli.revoke", "revoke_app"),
    "publish": _at("catalog.cli.publish", "publish_command"),
    "vo": _at("catalog.cli.vo", "vo_app"),
    "catalog": _catalog,
    "policy": _at("deployer.cli.policy", "policy_app"),
    "receipt": _at("deployer.cli.audit", "receipt_app"),
    "audit": _at("deployer.cli.audit", "audit_app"),
    "node": _at("deployer.cli.node.node", "node_app"),
    "deploy": _at("deployer.cli.deploy", "deploy"),
    "machine": _at("deployer.cli.node.machine", "machine_app"),
    "up": _at("deployer.cli.node.up", "up"),
    "site": _site,
    "deployment": _at("deployer.cli.site.deployment", "deployment_app"),
    "cluster": _at("deployer.cli.site.cluster", "cluster_app"),
    "ec2": _at("deployer.cli.ec2", "ec2_app"),
    "config": lambda: config_app,
}
"""Where each command is, an app or one command's function. Only the one that is asked for is imported: half a second."""


@cache
def _command(name: str) -> Any:
    found = COMMANDS[name]()
    if isinstance(found, typer.Typer):
        found.rich_markup_mode = None
        command: Any = typer.main.get_group(found)
    else:
        single = typer.Typer(rich_markup_mode=None, add_completion=False)
        single.command(name)(found)
        command = typer.main.get_command(single)
    command.name = name
    terminal.add_json_option(command)
    return command


class Commands(typer.core.TyperGroup):
    """The commands by name, each imported when it is needed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - as click calls it
        """All names, in the order in which a first image needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - as click calls it
        """The command, or None."""
        return _command(cmd_name) if cmd_name in COMMANDS else None


app = typer.Typer(
    name="partita", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


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
    context.obj = load_settings(
        SECTIONS, file=config or default_file(), environ=os.environ, flags=settings or (), required=config is not None
    )


@config_app.command("show")
def config_show(context: typer.Context) -> None:
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
    )


def _terminated(*_signal_and_frame: object) -> None:
    """Leave as Ctrl-C does, so that what a command holds or has half made is let go and removed."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; exit codes are in signer.errors and docs/operations.md."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except PartitaError as error:
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
