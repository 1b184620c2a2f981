"""The command `partita catalog seed`, which runs the catalog's seeding peer."""

import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Misused
from catalog.settings import CatalogSettings
from signer.runtime import terminal
from signer.runtime.clock import utc_now


def seed(
    context: typer.Context,
    listen: Annotated[
        str, typer.Option(help="ADDRESS:PORT for peers; the next port is for peers of restricted contents.")
    ] = "0.0.0.0:6881",
    directory: Annotated[
        Path | None, typer.Option("--directory", help="The catalog's directory; by default catalog.directory.")
    ] = None,
    catalog: Annotated[
        str | None, typer.Option(help="URL of the catalog's service as nodes reach it; by default catalog.url.")
    ] = None,
    upload_limit: Annotated[int, typer.Option(min=0, help="Bytes per second to all peers; 0 for no limit.")] = 0,
) -> None:
    """Share all published contents of the catalog with BitTorrent peers, beside its service, until interrupted."""
    from stager.swarm.catalog_seeder import seed_catalog
    from stager.swarm.swarm import SwarmOptions

    settings = terminal.section(context, CatalogSettings)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65534:
        raise Misused(f"--listen {listen}: write it as ADDRESS:PORT, such as 0.0.0.0:6881")
    ending = threading.Event()
    before = {name: signal.signal(name, lambda *_: ending.set()) for name in (signal.SIGTERM, signal.SIGINT)}

    def ready(contents: int, port: int) -> None:
        text = f"sharing {contents} contents on port {port}"
        terminal.show({"contents": contents, "port": port}, text)

    try:
        seed_catalog(
            directory or settings.directory,
            catalog or settings.url,
            SwarmOptions(listen=listen, upload_limit=upload_limit),
            now=utc_now,
            clock=time.monotonic,
            ready=ready,
            ending=ending,
        )
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
