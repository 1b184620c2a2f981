"""What the catalog knows for everyone: VOs and their keys, published images, endorsements. Queries only.

Each function takes the connection of an open transaction (`database`) and gives plain values.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, Select, delete, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from catalog.db.tables import endorsements, images, keys, revocations, vos
from catalog.image.manifest import Manifest
from catalog.schema.images import ImageEntry, VoEntry
from signer.verification.trust import Anchor, scheme_of


@dataclass(frozen=True)
class StoredEndorsement:
    """An endorsement that the catalog holds, and the primary fingerprint that it verified with."""

    statement: bytes
    signature: bytes
    fingerprint: str


def register_vo(connection: Connection, name: str, now: datetime) -> None:
    """Register a VO; one that is registered stays as it is."""
    connection.execute(upsert(vos).values(name=name, registered=now).on_conflict_do_nothing())


def register_key(connection: Connection, anchor: Anchor, now: datetime) -> None:
    """Register a key for its VO, or give the registered one its new role and its newest form."""
    row = {
        "vo": anchor.vo,
        "fingerprint": anchor.fingerprint,
        "role": anchor.role,
        "key": anchor.key,
        "registered": now,
    }
    connection.execute(
        upsert(keys)
        .values(row)
        .on_conflict_do_update(index_elements=["vo", "fingerprint"], set_={"role": anchor.role, "key": anchor.key})
    )


def remove_key(connection: Connection, vo: str, fingerprint: str) -> bool:
    """Forget a key; returns whether it was there."""
    gone = connection.execute(delete(keys).where(keys.c.vo == vo, keys.c.fingerprint == fingerprint))
    return gone.rowcount > 0


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
    """Make an image visible: the last step of a publication."""
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
    return connection.execute(select(images.c.manifest).where(images.c.image_id == image_id)).scalar()


def find_image(connection: Connection, vo: str, name: str, version: str | None) -> ImageEntry | None:
    """The image that a name and version, or a name's last published version, stands for."""
    query = _entries().where(images.c.vo == vo, images.c.name == name)
    if version is not None:
        query = query.where(images.c.version == version)
    row = connection.execute(query.order_by(images.c.sequence.desc()).limit(1)).first()
    return None if row is None else _entry(row)


def list_images(
    connection: Connection, vo: str | None, name: str | None, before: int | None, limit: int
) -> list[tuple[int, ImageEntry]]:
    """Up to `limit` images, last published first, each with its sequence; `before` is the sequence to go on from."""
    query = _entries()
    if vo is not None:
        query = query.where(images.c.vo == vo)
    if name is not None:
        query = query.where(images.c.name == name)
    if before is not None:
        query = query.where(images.c.sequence < before)
    rows = connection.execute(query.order_by(images.c.sequence.desc()).limit(limit))
    return [(row.sequence, _entry(row)) for row in rows]


def add_endorsements(
    connection: Connection, image_id: str, found: Sequence[StoredEndorsement], now: datetime
) -> list[StoredEndorsement]:
    """Keep endorsements of an image, each once; returns those that were not there before."""
    fresh = []
    for one in found:
        digest = hashlib.sha256(hashlib.sha256(one.statement).digest() + one.signature).hexdigest()
        row = {"image_id": image_id, "digest": digest, "received": now} | vars(one)
        if connection.execute(upsert(endorsements).values(row).on_conflict_do_nothing()).rowcount:
            fresh.append(one)
    return fresh


def list_endorsements(connection: Connection, image_id: str) -> list[StoredEndorsement]:
    """The endorsements of an image, in the order in which they came."""
    query = (
        select(endorsements)
        .where(endorsements.c.image_id == image_id)
        .order_by(endorsements.c.received, endorsements.c.digest)
    )
    return [StoredEndorsement(row.statement, row.signature, row.fingerprint) for row in connection.execute(query)]


def add_revocation(connection: Connection, statement: bytes, signature: bytes, now: datetime) -> bool:
    """Keep a revocation, once; returns whether it is new."""
    digest = hashlib.sha256(hashlib.sha256(statement).digest() + signature).hexdigest()
    row = {"digest": digest, "statement": statement, "signature": signature, "received": now}
    return connection.execute(upsert(revocations).values(row).on_conflict_do_nothing()).rowcount > 0


def list_revocations(connection: Connection, after: int, limit: int) -> list[tuple[int, tuple[bytes, bytes]]]:
    """Up to `limit` revocations after a sequence, in the order in which they came; a limit of -1 is none."""
    query = select(revocations).where(revocations.c.sequence > after).order_by(revocations.c.sequence)
    rows = connection.execute(query if limit < 0 else query.limit(limit))
    return [(row.sequence, (row.statement, row.signature)) for row in rows]


def count_rows(connection: Connection) -> dict[str, int]:
    """How many images, VOs, endorsements and revocations there are."""
    tables = {"images": images, "vos": vos, "endorsements": endorsements, "revocations": revocations}
    return {name: connection.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables.items()}


def _entries() -> Select[tuple[object, ...]]:
    """Everything of an image but its manifest, which a list does not need to read."""
    return select(*(column for column in images.c if column.name != "manifest"))


def _entry(row: Row[tuple[object, ...]]) -> ImageEntry:
    members = dict(row._mapping)  # noqa: SLF001 - the documented way to a row by names
    del members["sequence"]
    return ImageEntry.model_validate(members)
