"""What a catalog tells Prometheus: how much it holds, how long its freshness metadata lasts, and what an operator should do."""

import shutil
from collections.abc import Iterator
from datetime import datetime

from catalog.db import images as registry
from catalog.publication.images import PublicationService
from catalog.tuf_repository import status as tuf_status
from catalog.web.metrics import MetricFamily, gauge, labelled_metric


def collect_metrics(publishing: PublicationService, now: datetime) -> Iterator[MetricFamily]:
    """The figures of a catalog, as they are now."""
    with publishing.database.reading() as connection:
        held = registry.count_rows(connection)
        made = publishing.freshness.is_made(connection)
        roles = tuf_status.list_role_statuses(publishing.freshness, connection) if made else ()
        warnings = tuf_status.list_warnings(publishing.freshness, connection, now) if made else ()
    yield labelled_metric(
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
    yield labelled_metric(
        "catalog_metadata_expires_timestamp_seconds",
        "When a role's freshness metadata expires, Unix time.",
        "role",
        {one.role: one.expires.timestamp() for one in roles},
    )
    yield gauge(
        "catalog_warnings", "What an operator should do something about; `partita catalog tuf status`.", len(warnings)
    )
