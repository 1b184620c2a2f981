"""The group `partita site`."""

import typer

site_app = typer.Typer(
    name="site", no_args_is_help=True, help="A site: its service, its nodes and machines, and what runs there."
)
