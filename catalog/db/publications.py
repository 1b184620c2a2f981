"""Queries on publications, the contents of images, stored contents, and received ranges of uploads."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from catalog.db.tables import contents, endorsements, image_contents, images, publications, received
from catalog.image.address import Address
from catalog.image.manifest import Manifest


def put_publication(connection: Connection, manifest: Manifest, expires: datetime) -> None:
    """Begin a publication, or extend it."""
    row = {"image_id": manifest.image_id, "manifest": manifest.canonical(), "expires": expires}
    connection.execute(
        upsert(publications).values(row).on_conflict_do_update(index_elements=["image_id"], set_={"expires": expires})
    )
    for position, address in enumerate(manifest.contents()):
        row = {"image_id": manifest.image_id, "position": position, "address": address}
        connection.execute(upsert(image_contents).values(row).on_conflict_do_nothing())


def pending_manifest(connection: Connection, image_id: str) -> bytes | None:
    """The manifest of a pending publication."""
    return connection.scalar(select(publications.c.manifest).where(publications.c.image_id == image_id))


def candidate_manifest(connection: Connection, image_id: str) -> bytes | None:
    """The manifest of a pending publication without endorsements."""
    query = _unendorsed(select(publications.c.manifest)).where(publications.c.image_id == image_id)
    return connection.execute(query).scalar()


def list_candidates(connection: Connection) -> list[tuple[bytes, datetime]]:
    """The manifest and expiry of each candidate, sorted by expiry."""
    query = _unendorsed(select(publications.c.manifest, publications.c.expires)).order_by(publications.c.expires)
    return [(row.manifest, row.expires) for row in connection.execute(query)]


def _unendorsed(query: Select[Any]) -> Select[Any]:
    return (
        query.outerjoin(endorsements, endorsements.c.image_id == publications.c.image_id)
        .outerjoin(images, images.c.image_id == publications.c.image_id)
        .where(endorsements.c.image_id.is_(None), images.c.image_id.is_(None))
    )


def list_pending(connection: Connection) -> list[str]:
    """The image IDs of all pending publications."""
    return list(connection.scalars(select(publications.c.image_id)))


def list_published(connection: Connection) -> list[str]:
    """The image IDs of all published images."""
    return list(connection.scalars(select(images.c.image_id).order_by(images.c.sequence)))


def list_expired(connection: Connection, now: datetime) -> list[str]:
    """The image IDs of the publications that have expired."""
    return list(connection.scalars(select(publications.c.image_id).where(publications.c.expires <= now)))


def end_publication(connection: Connection, image_id: str) -> None:
    """Delete the pending publication of an image, which is now published."""
    connection.execute(delete(publications).where(publications.c.image_id == image_id))
    connection.execute(delete(received).where(received.c.image_id == image_id))


def forget_publication(connection: Connection, image_id: str) -> None:
    """Delete a publication with its data; if the image is published and only being repaired, keep the image."""
    end_publication(connection, image_id)
    if connection.execute(select(images.c.sequence).where(images.c.image_id == image_id)).first() is None:
        connection.execute(delete(image_contents).where(image_contents.c.image_id == image_id))
        connection.execute(delete(endorsements).where(endorsements.c.image_id == image_id))


def missing_contents(connection: Connection, image_id: str) -> list[Address]:
    """The contents of an image that are not stored yet, in the order of the image."""
    query = (
        select(image_contents.c.address)
        .outerjoin(contents, contents.c.address == image_contents.c.address)
        .where(image_contents.c.image_id == image_id, contents.c.address.is_(None))
        .order_by(image_contents.c.position)
    )
    return list(connection.scalars(query))


def image_has_content(connection: Connection, image_id: str, address: Address) -> bool:
    """Whether an image, pending or published, has that content."""
    rows = image_contents.c
    query = select(rows.position).where(rows.image_id == image_id, rows.address == address)
    return connection.execute(query).first() is not None


def is_referenced(connection: Connection, address: Address) -> bool:
    """Whether any image, pending or published, has that content."""
    query = select(image_contents.c.position).where(image_contents.c.address == address).limit(1)
    return connection.execute(query).first() is not None


def has_content(connection: Connection, address: Address) -> bool:
    """Whether the content is stored and verified."""
    return connection.execute(select(contents.c.address).where(contents.c.address == address)).first() is not None


def add_content(connection: Connection, address: Address, data_bytes: int, now: datetime) -> None:
    """Record a content that is stored and verified, and forget its uploads."""
    row = {"address": address, "data_bytes": data_bytes, "verified": now}
    connection.execute(upsert(contents).values(row).on_conflict_do_nothing())
    connection.execute(delete(received).where(received.c.address == address))


def drop_content(connection: Connection, address: Address) -> None:
    """Remove a content that is no longer stored."""
    connection.execute(delete(contents).where(contents.c.address == address))


def all_contents(connection: Connection) -> list[Address]:
    """All stored contents."""
    return list(connection.scalars(select(contents.c.address).order_by(contents.c.address)))


def unreferenced_contents(connection: Connection) -> list[Address]:
    """The stored contents that no image, pending or published, has."""
    query = (
        select(contents.c.address)
        .outerjoin(image_contents, image_contents.c.address == contents.c.address)
        .where(image_contents.c.address.is_(None))
    )
    return list(connection.scalars(query))


def received_ranges(connection: Connection, image_id: str, address: Address) -> tuple[tuple[int, int], ...]:
    """The received ranges of an upload: (start, end) in bytes, end exclusive, in order, not adjacent."""
    query = (
        select(received.c.start, received.c.end)
        .where(received.c.image_id == image_id, received.c.address == address)
        .order_by(received.c.start)
    )
    return tuple((row.start, row.end) for row in connection.execute(query))


def add_range(connection: Connection, image_id: str, address: Address, start: int, end: int) -> None:
    """Record a range that is durably stored; adjacent ranges become one."""
    touching = (
        received.c.image_id == image_id,
        received.c.address == address,
        received.c.start <= end,
        received.c.end >= start,
    )
    for row in connection.execute(select(received.c.start, received.c.end).where(*touching)):
        start, end = min(start, row.start), max(end, row.end)
    connection.execute(delete(received).where(*touching))
    connection.execute(insert(received).values(image_id=image_id, address=address, start=start, end=end))


def drop_ranges(connection: Connection, image_id: str, address: Address) -> None:
    """Forget the received ranges of an upload, which are useless."""
    connection.execute(delete(received).where(received.c.image_id == image_id, received.c.address == address))


def list_uploads(connection: Connection) -> Iterable[tuple[str, Address]]:
    """(image ID, address) of each upload with received ranges."""
    return [
        (row.image_id, row.address)
        for row in connection.execute(select(received.c.image_id, received.c.address).distinct())
    ]
