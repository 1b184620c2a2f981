"""What a catalog tells Prometheus: how much it holds, how long its freshness metadata lasts, and what an operator should do."""

import shutil
from collections.abc import Iterator
from datetime import datetime

from catalog.db import images as registry
from catalog.publication.images import Publishing
from catalog.tuf_repository import status as tuf_status
from catalog.web.metrics import Figure, by, gauge


def figures(publishing: Publishing, now: datetime) -> Iterator[Figure]:
    """The figures of a catalog, as they are now."""
    with publishing.database.reading() as connection:
        held = registry.count(connection)
        made = publishing.freshness.is_made(connection)
        roles = tuf_status.status(publishing.freshness, connection) if made else ()
        warnings = tuf_status.warnings(publishing.freshness, connection, now) if made else ()
    yield by(
        "catalog_records",
        "What the catalog holds, by kind.",
        "kind",
        {name: float(value) for name, value in held.items()},
    )
    yield gauge(
        "catalog_disk_free_bytes",
        "What is free where contents are kept.",
        shutil.disk_usage(publishing.freshness.directory.parent).free,
    )
    yield by(
        "catalog_metadata_expires_timestamp_seconds",
        "When a role's freshness metadata expires, Unix time.",
        "role",
        {one.role: one.expires.timestamp() for one in roles},
    )
    yield gauge(
        "catalog_warnings", "What an operator should do something about; `partita catalog tuf status`.", len(warnings)
    )
