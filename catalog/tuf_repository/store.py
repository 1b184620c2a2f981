"""Queries on the TUF metadata in the catalog's database. Each takes the connection of an open transaction."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from catalog.db.tables import endorsements, images, tuf_epochs, tuf_metadata, tuf_targets
from catalog.tuf.metadata import BIN, SNAPSHOT, TIMESTAMP, ListedTarget


@dataclass(frozen=True)
class MetadataVersion:
    """A version of a role's metadata, as it is served."""

    version: int
    data: bytes
    made: datetime
    expires: datetime


@dataclass(frozen=True)
class BinEpoch:
    """The layout of the bins: 2**bits of them; an empty bin has the version `epoch` and was made at `begun`."""

    epoch: int
    bits: int
    begun: datetime


@dataclass(frozen=True)
class TargetContent:
    """A target and its bytes; `data` is None for a manifest, which is in the table of images."""

    listed: ListedTarget
    data: bytes | None


@dataclass(frozen=True)
class ImageRow:
    """A published image; `length` is that of its manifest, in bytes."""

    image_id: str
    vo: str
    name: str
    version: str
    length: int


def current_epoch(connection: Connection) -> BinEpoch | None:
    """The present epoch; None where the repository has not been created."""
    row = connection.execute(select(tuf_epochs).order_by(tuf_epochs.c.epoch.desc()).limit(1)).first()
    return None if row is None else BinEpoch(row.epoch, row.bits, row.begun)


def add_epoch(connection: Connection, number: int, bits: int, now: datetime) -> None:
    """Begin an epoch."""
    connection.execute(insert(tuf_epochs).values(epoch=number, bits=bits, begun=now))


def add_metadata(
    connection: Connection, role: str, version: int, data: bytes, made: datetime, expires: datetime
) -> None:
    """Store new metadata."""
    connection.execute(insert(tuf_metadata).values(role=role, version=version, data=data, made=made, expires=expires))


def latest_metadata(connection: Connection, role: str) -> MetadataVersion | None:
    """The newest metadata of a role."""
    query = select(tuf_metadata).where(tuf_metadata.c.role == role).order_by(tuf_metadata.c.version.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else MetadataVersion(row.version, row.data, row.made, row.expires)


def metadata_bytes(connection: Connection, role: str, number: int) -> bytes | None:
    """The metadata of a role in one version."""
    query = select(tuf_metadata.c.data).where(tuf_metadata.c.role == role, tuf_metadata.c.version == number)
    return connection.execute(query).scalar()


def bin_versions(connection: Connection) -> Mapping[str, int]:
    """The newest version of each bin that has, or once had, a target."""
    query = (
        select(tuf_metadata.c.role, func.max(tuf_metadata.c.version))
        .where(tuf_metadata.c.role > f"{BIN}-", tuf_metadata.c.role < f"{BIN}.")
        .group_by(tuf_metadata.c.role)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def bins_made_before(connection: Connection, instant: datetime) -> Sequence[str]:
    """The bins with targets whose newest version was made before an instant."""
    query = (
        select(tuf_metadata.c.role)
        .where(tuf_metadata.c.role > f"{BIN}-", tuf_metadata.c.role < f"{BIN}.")
        .group_by(tuf_metadata.c.role)
        .having(func.max(tuf_metadata.c.made) <= instant)
    )
    return list(connection.execute(query).scalars())


def prune_metadata(connection: Connection, roles: Iterable[str], until: datetime) -> None:
    """Delete the versions that a newer one had replaced by `until`. Roots and top-level targets are never deleted."""
    for role in {*roles, SNAPSHOT, TIMESTAMP}:
        newest = (
            select(func.max(tuf_metadata.c.version))
            .where(tuf_metadata.c.role == role, tuf_metadata.c.made <= until)
            .scalar_subquery()
        )
        connection.execute(delete(tuf_metadata).where(tuf_metadata.c.role == role, tuf_metadata.c.version < newest))


def forget_targets(connection: Connection, until: datetime) -> None:
    """Delete the targets that had been replaced by `until`."""
    connection.execute(delete(tuf_targets).where(tuf_targets.c.replaced <= until))


def put_target(connection: Connection, content: TargetContent, number: int, now: datetime) -> bool:
    """Set a target; returns whether it changed. The replaced bytes are served for a while."""
    one = content.listed
    current = (tuf_targets.c.path == one.path, tuf_targets.c.replaced.is_(None))
    before = connection.execute(select(tuf_targets.c.digest).where(*current)).scalar()
    if before == one.digest:
        return False
    if before is not None:
        connection.execute(update(tuf_targets).where(*current).values(replaced=now))
    connection.execute(
        upsert(tuf_targets)
        .values(_target_row(content, number))
        .on_conflict_do_update(index_elements=["path", "digest"], set_={"replaced": None})
    )
    return True


def put_new_targets(connection: Connection, contents: Iterable[tuple[TargetContent, int]]) -> int:
    """As `put_target`, for many (content, bin) whose paths are new; returns how many."""
    count = 0
    rows = iter(contents)
    while some := list(islice(rows, 10_000)):
        connection.execute(insert(tuf_targets), [_target_row(one, number) for one, number in some])
        count += len(some)
    return count


def _target_row(content: TargetContent, number: int) -> dict[str, object]:
    one = content.listed
    return {
        "path": one.path,
        "digest": one.digest,
        "bin": number,
        "length": one.length,
        "data": content.data,
        "replaced": None,
    }


def endorsed_images(connection: Connection) -> set[str]:
    """The IDs of all images that have an endorsement."""
    return set(connection.execute(select(endorsements.c.image_id).distinct()).scalars())


def targets_in_bin(connection: Connection, number: int) -> Iterator[ListedTarget]:
    """The targets in a bin."""
    query = (
        select(tuf_targets.c.path, tuf_targets.c.length, tuf_targets.c.digest)
        .where(tuf_targets.c.bin == number, tuf_targets.c.replaced.is_(None))
        .order_by(tuf_targets.c.path)
    )
    return (ListedTarget(row.path, row.length, row.digest) for row in connection.execute(query))


def find_target(connection: Connection, path: str, digest: str) -> tuple[bool, bytes | None]:
    """Whether there is a target with that path and SHA-256, and its bytes unless the table of images has them."""
    query = select(tuf_targets.c.data).where(tuf_targets.c.path == path, tuf_targets.c.digest == digest)
    row = connection.execute(query).first()
    return (False, None) if row is None else (True, row.data)


def is_current_target(connection: Connection, one: ListedTarget) -> bool:
    """Whether a target has that SHA-256 now."""
    query = select(tuf_targets.c.bin).where(
        tuf_targets.c.path == one.path, tuf_targets.c.digest == one.digest, tuf_targets.c.replaced.is_(None)
    )
    return connection.execute(query).first() is not None


def target_paths(connection: Connection) -> set[str]:
    """The path of every target."""
    return set(connection.execute(select(tuf_targets.c.path).where(tuf_targets.c.replaced.is_(None))).scalars())


def list_image_rows(connection: Connection, image_id: str | None = None) -> list[ImageRow]:
    """One published image, or all in the order of their publication."""
    query = select(
        images.c.image_id, images.c.vo, images.c.name, images.c.version, func.length(images.c.manifest).label("length")
    ).order_by(images.c.sequence)
    if image_id is not None:
        query = query.where(images.c.image_id == image_id)
    return [ImageRow(row.image_id, row.vo, row.name, row.version, row.length) for row in connection.execute(query)]
