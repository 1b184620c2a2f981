"""What the context broker remembers: of each machine its contact, and what it published. Queries only.

Each function takes the connection of an open transaction. Of secrets and sessions there are only digests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from deployer.site.db.documents import chunks
from deployer.site.db.tables import contexts, published
from deployer.site.model.contact import BrokerContact

COLUMNS = tuple(field.name for field in fields(BrokerContact))


def get_contact(connection: Connection, machine: str) -> BrokerContact | None:
    """What is remembered of a machine, or None."""
    row = connection.execute(select(contexts).where(contexts.c.machine == machine)).first()
    return None if row is None else _contact(row)


def get_contacts(connection: Connection, machines: Sequence[str]) -> dict[str, BrokerContact]:
    """The same for many, by UUID."""
    found = {}
    for some in chunks(machines):
        for row in connection.execute(select(contexts).where(contexts.c.machine.in_(some))):
            found[row.machine] = _contact(row)
    return found


def put_contact(connection: Connection, contact: BrokerContact, forget_after: datetime) -> None:
    """Remember this of a machine, instead of what was; `forget_after` is when it may be forgotten."""
    row = asdict(contact) | {"forget_after": forget_after}
    changed = connection.execute(update(contexts).where(contexts.c.machine == contact.machine).values(row))
    if not changed.rowcount:
        connection.execute(insert(contexts).values(row))


def update_contact(connection: Connection, contact: BrokerContact) -> None:
    """Remember this of a machine that is remembered already."""
    connection.execute(update(contexts).where(contexts.c.machine == contact.machine).values(asdict(contact)))


def reassign_contact(connection: Connection, machine: str, node: str) -> None:
    """A machine goes on, as it was, on another node: its secret, session and what it published stay its own."""
    connection.execute(update(contexts).where(contexts.c.machine == machine).values(node=node))


def put_value(connection: Connection, machine: str, key: str, value: bytes, now: datetime) -> None:
    """Keep what a machine published, instead of what it published under that key before."""
    delete_values(connection, machine, key)
    connection.execute(insert(published).values(machine=machine, key=key, value=value, at=now))


def delete_values(connection: Connection, machine: str, key: str | None = None) -> None:
    """Forget what a machine published under a key, or all of it."""
    query = delete(published).where(published.c.machine == machine)
    connection.execute(query if key is None else query.where(published.c.key == key))


def published_sizes(connection: Connection, machines: Sequence[str]) -> dict[str, dict[str, int]]:
    """What machines published: by UUID, key to size in bytes. Those that published nothing are not in it."""
    found: dict[str, dict[str, int]] = {}
    for some in chunks(machines):
        query = select(published.c.machine, published.c.key, func.length(published.c.value)).where(
            published.c.machine.in_(some)
        )
        for machine, key, size in connection.execute(query.order_by(published.c.key)):
            found.setdefault(machine, {})[key] = size
    return found


def published_values(connection: Connection, machines: Sequence[str], key: str) -> Mapping[str, bytes]:
    """What machines published under one key, by UUID."""
    found = {}
    for some in chunks(machines):
        query = select(published.c.machine, published.c.value).where(
            published.c.machine.in_(some), published.c.key == key
        )
        found.update({machine: bytes(value) for machine, value in connection.execute(query)})
    return found


def expired_contacts(connection: Connection, now: datetime, most: int) -> list[str]:
    """Machines that may be forgotten."""
    expired = select(contexts.c.machine).where(contexts.c.forget_after < now)
    query = expired.order_by(contexts.c.forget_after).limit(most)
    return list(connection.execute(query).scalars())


def postpone_expiry(connection: Connection, machine: str, forget_after: datetime) -> None:
    """Not yet: the machine was given more time."""
    connection.execute(update(contexts).where(contexts.c.machine == machine).values(forget_after=forget_after))


def delete_contact(connection: Connection, machine: str) -> None:
    """Remember nothing of a machine."""
    delete_values(connection, machine)
    connection.execute(delete(contexts).where(contexts.c.machine == machine))


def _contact(row: Row[tuple[object, ...]]) -> BrokerContact:
    return BrokerContact(**{name: getattr(row, name) for name in COLUMNS})
