"""The catalog's own seeding peer: shares published contents from the catalog's directory.

A process beside the catalog's service, on its machine and as its user: it reads the list of contents and the secrets of
the swarms in the catalog's database, and the contents' files. Nodes prefer each other to it.
"""

import logging
import secrets
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from catalog.access.authorizer import CatalogAuthorizer
from catalog.content.content_store import ContentStore
from catalog.errors import CatalogError
from catalog.image.address import Address
from catalog.publication.state_directory import open_database
from catalog.swarm.announce_keys import ORIGIN, KeyHolder
from stager.content.piece_map import PieceMap
from stager.fetch.resume import read_boot_id
from stager.swarm.grants import CatalogCredentialsProvider
from stager.swarm.swarm import Swarm, SwarmOptions
from stager.swarm.tracker_client import TrackerClient

LOOK = 2.0
"""Seconds between looks for newly published contents."""

log = logging.getLogger("partita.swarm")


def seed_catalog(
    directory: Path,
    url: str,
    options: SwarmOptions,
    *,
    now: Callable[[], datetime],
    clock: Callable[[], float],
    ready: Callable[[int, int], None],
    ending: threading.Event,
) -> None:
    """Share all published contents until `ending` is set; newly published ones are shared within some seconds.

    Args:
        directory: the catalog's.
        url: of its service.
        options: of the swarm.
        now: the time, UTC.
        clock: seconds.
        ready: called after the first look with the number of contents and the port.
        ending: set to end.

    Raises:
        PeerFailed: the peer process cannot listen.
        CatalogError: the database cannot be read.
    """
    contents = ContentStore(directory)
    with open_database(directory) as database:
        authorizer = CatalogAuthorizer(database, now, clock)
        holder = KeyHolder(ORIGIN, "")
        credentials = CatalogCredentialsProvider(
            lambda address, node, request: authorizer.issue_grant(holder, node, address, request, now()), ORIGIN, now
        )
        peer_id = secrets.token_bytes(20)
        tracker = TrackerClient(url.rstrip("/") + "/v1", peer_id=peer_id, credentials=credentials)
        with tracker, Swarm(tracker, options, boot=read_boot_id(), clock=clock, credentials=credentials) as swarm:
            shared: dict[Address, bytes] = {}

            def share(address: Address) -> None:
                """Share a content in its current swarm: restricting or opening a content gives it another one."""
                authority = authorizer.authority_of(address)
                if shared.get(address) == authority:
                    return
                if address in shared:
                    swarm.leave(address)
                    credentials.forget(address)
                try:
                    piece_map = PieceMap.of(address, contents.accelerator(address, "layer"))
                except CatalogError as exc:
                    log.warning("%s is not shared: %s", address, exc)
                    return
                if piece_map.layer is None:
                    log.warning(
                        "%s is not shared: its stored piece layer is wrong; run `partita catalog check`", address
                    )
                    return
                swarm.join(piece_map, contents.path(address))
                shared[address] = authority

            first = True
            while first or not ending.wait(LOOK):
                for address in authorizer.served_contents():
                    share(address)
                if first:
                    ready(len(shared), swarm.port)
                first = False
