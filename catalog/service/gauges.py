"""A catalog's gauges for Prometheus: how much it holds, when its TUF metadata expires, and how many warnings it has."""

import shutil
from collections.abc import Iterator
from datetime import datetime

from catalog.db.images import count_rows
from catalog.publication.images import PublicationService
from catalog.tuf_repository.status import list_role_statuses, list_warnings
from catalog.web.metrics import MetricFamily, gauge, labelled_metric


def collect_metrics(publishing: PublicationService, now: datetime) -> Iterator[MetricFamily]:
    """The present gauges of a catalog."""
    with publishing.database.reading() as connection:
        held = count_rows(connection)
        created = publishing.repository.exists(connection)
        roles = list_role_statuses(publishing.repository, connection) if created else ()
        warnings = list_warnings(publishing.repository, connection, now) if created else ()
    yield labelled_metric(
        "catalog_records",
        "What the catalog holds, by kind.",
        "kind",
        {name: float(value) for name, value in held.items()},
    )
    yield gauge(
        "catalog_disk_free_bytes",
        "What is free where contents are kept.",
        shutil.disk_usage(publishing.repository.directory.parent).free,
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
