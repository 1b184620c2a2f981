"""Queries on VOs and their keys, published images, endorsements and revocations.

Each function takes the connection of an open transaction (`engine`) and returns plain values.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, Select, delete, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from catalog.db.tables import endorsements, images, keys, newest_first, revocations, vos
from catalog.image.manifest import Manifest
from catalog.schema.images import ImageEntry, VoEntry
from signer.verification.trust import Anchor, scheme_of


@dataclass(frozen=True)
class StoredEndorsement:
    """An endorsement in the database, and the primary fingerprint with which it was verified."""

    statement: bytes
    signature: bytes
    fingerprint: str


def register_vo(connection: Connection, name: str, now: datetime) -> None:
    """Register a VO; a registered one is not changed."""
    connection.execute(upsert(vos).values(name=name, registered=now).on_conflict_do_nothing())


def register_key(connection: Connection, anchor: Anchor, now: datetime) -> None:
    """Register a key for its VO, or update the role and form of a registered one."""
    changes = {"role": anchor.role, "key": anchor.key}
    query = upsert(keys).values(vo=anchor.vo, fingerprint=anchor.fingerprint, registered=now, **changes)
    connection.execute(query.on_conflict_do_update(index_elements=["vo", "fingerprint"], set_=changes))


def remove_key(connection: Connection, vo: str, fingerprint: str) -> bool:
    """Remove a key; returns whether it was registered."""
    query = delete(keys).where(keys.c.vo == vo, keys.c.fingerprint == fingerprint)
    return connection.execute(query).rowcount > 0


def has_vo(connection: Connection, name: str) -> bool:
    """Whether the VO is registered."""
    return connection.execute(select(vos.c.name).where(vos.c.name == name)).first() is not None


def list_anchors(connection: Connection, vo: str) -> list[Anchor]:
    """The registered keys of a VO, by fingerprint."""
    rows = connection.execute(select(keys).where(keys.c.vo == vo).order_by(keys.c.fingerprint))
    return [Anchor(row.vo, row.role, row.fingerprint, row.key, scheme_of(row.fingerprint)) for row in rows]


def list_vos(connection: Connection, after: str, limit: int) -> list[VoEntry]:
    """Up to `limit` VOs whose names come after `after`, by name."""
    query = (
        select(vos.c.name, vos.c.registered, func.count(keys.c.fingerprint).label("number"))
        .outerjoin(keys, keys.c.vo == vos.c.name)
        .where(vos.c.name > after)
        .group_by(vos.c.name, vos.c.registered)
        .order_by(vos.c.name)
        .limit(limit)
    )
    return [VoEntry(name=row.name, registered=row.registered, keys=row.number) for row in connection.execute(query)]


def add_image(connection: Connection, manifest: Manifest, now: datetime) -> None:
    """Add an image, which makes it visible: the last step of a publication."""
    connection.execute(
        insert(images).values(
            image_id=manifest.image_id,
            vo=manifest.vo,
            name=manifest.name,
            version=manifest.version,
            architecture=manifest.architecture,
            size=sum(address.size for address in manifest.contents()),
            manifest=manifest.canonical(),
            published=now,
        )
    )


def get_manifest(connection: Connection, image_id: str) -> bytes | None:
    """The canonical bytes of a published image's manifest."""
    return connection.scalar(select(images.c.manifest).where(images.c.image_id == image_id))


def find_image(connection: Connection, vo: str, name: str, version: str | None) -> ImageEntry | None:
    """The image of a name and version, or of the last published version of a name."""
    row = connection.execute(newest_first(_entries(), images, limit=1, vo=vo, name=name, version=version)).first()
    return None if row is None else _entry(row)


def list_images(
    connection: Connection, vo: str | None, name: str | None, before: int | None, limit: int
) -> list[tuple[int, ImageEntry]]:
    """Up to `limit` images, last published first, each with its sequence number; only those below `before`."""
    rows = connection.execute(newest_first(_entries(), images, before, limit, vo=vo, name=name))
    return [(row.sequence, _entry(row)) for row in rows]


def add_endorsements(
    connection: Connection, image_id: str, found: Sequence[StoredEndorsement], now: datetime
) -> list[StoredEndorsement]:
    """Store endorsements of an image, each once; returns the new ones."""
    fresh = []
    for one in found:
        digest = _digest(one.statement, one.signature)
        row = {"image_id": image_id, "digest": digest, "received": now} | vars(one)
        if connection.execute(upsert(endorsements).values(row).on_conflict_do_nothing()).rowcount:
            fresh.append(one)
    return fresh


def list_endorsements(connection: Connection, image_id: str) -> list[StoredEndorsement]:
    """The endorsements of an image, in the order in which they were received."""
    query = (
        select(endorsements)
        .where(endorsements.c.image_id == image_id)
        .order_by(endorsements.c.received, endorsements.c.digest)
    )
    return [StoredEndorsement(row.statement, row.signature, row.fingerprint) for row in connection.execute(query)]


def add_revocation(connection: Connection, statement: bytes, signature: bytes, now: datetime) -> bool:
    """Store a revocation, once; returns whether it is new."""
    row = {"digest": _digest(statement, signature), "statement": statement, "signature": signature, "received": now}
    return connection.execute(upsert(revocations).values(row).on_conflict_do_nothing()).rowcount > 0


def list_revocations(connection: Connection, after: int, limit: int) -> list[tuple[int, tuple[bytes, bytes]]]:
    """Up to `limit` revocations after a sequence number, in the order in which they were received; -1 for no limit."""
    query = select(revocations).where(revocations.c.sequence > after).order_by(revocations.c.sequence)
    rows = connection.execute(query if limit < 0 else query.limit(limit))
    return [(row.sequence, (row.statement, row.signature)) for row in rows]


def count_rows(connection: Connection) -> dict[str, int]:
    """The numbers of images, VOs, endorsements and revocations."""
    tables = {"images": images, "vos": vos, "endorsements": endorsements, "revocations": revocations}
    return {name: connection.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables.items()}


def _digest(statement: bytes, signature: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(statement).digest() + signature).hexdigest()


def _entries() -> Select[tuple[object, ...]]:
    """All columns of an image but its manifest, which lists do not need."""
    return select(*(column for column in images.c if column.name != "manifest"))


def _entry(row: Row[tuple[object, ...]]) -> ImageEntry:
    members = dict(row._mapping)  # noqa: SLF001 - the documented access to a row by names
    del members["sequence"]
    return ImageEntry.model_validate(members)
