"""What the queries of deployments, machines, clusters and nodes have in common: their documents, lookup and pages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Table, select

from catalog.errors import Misused
from signer.documents import Document
from signer.errors import PartitaError

D = TypeVar("D", bound=Document)

MIN_PREFIX = 4
"""Characters of a UUID that may stand for it, where they are enough."""

MAX_DIGITS = 9
"""Of a row's number: what PostgreSQL's integer takes."""

AT_ONCE = 500
"""Values in one query: below what the oldest SQLite takes as parameters."""

Conditions = Sequence[Any]
"""SQL conditions that all hold."""


@dataclass(frozen=True)
class DocumentTable(Generic[D]):
    """A table whose rows hold a document each, besides the columns that queries need.

    Attributes:
        table: has the columns `uuid`, `document` and `sequence` (the order of admission).
        model: of the documents.
        missing: raised, with a message, where no row is meant.
    """

    table: Table
    model: type[D]
    missing: type[PartitaError]

    def get(self, connection: Connection, uuid: str) -> D:
        """The document of a UUID; raises `missing`."""
        found = connection.execute(select(self.table.c.document).where(self.table.c.uuid == uuid)).scalar()
        if found is None:
            raise self._missing(uuid)
        return self.model.model_validate_json(found)

    def find(self, connection: Connection, text: str, *attempts: Conditions) -> D:
        """The document that a text means: the one that satisfies the first of these attempts that any satisfies.

        Raises:
            Misused: several satisfy it.
            PartitaError: `missing`.
        """
        uuid = find_uuid(connection, self.table, text, *attempts)
        if uuid is None:
            raise self._missing(text)
        return self.get(connection, uuid)

    def _missing(self, text: str) -> PartitaError:
        return self.missing(f"no such {self.table.name.removesuffix('s')} at this site: {text[:80]!r}")

    def page(
        self, connection: Connection, conditions: Conditions, limit: int, after: str | None
    ) -> tuple[tuple[D, ...], str | None]:
        """Up to `limit` documents, the newest first; and, if there are more, the `after` of the next page."""
        number = self.table.c.sequence
        query = select(number, self.table.c.document).where(*conditions)
        if after is not None:
            query = query.where(number < parse_cursor(after))
        rows = connection.execute(query.order_by(number.desc()).limit(limit + 1)).all()
        shown = rows[:limit]
        found = tuple(self.model.model_validate_json(row.document) for row in shown)
        return found, str(shown[-1].sequence) if len(rows) > limit and shown else None


def find_uuid(connection: Connection, table: Table, text: str, *attempts: Conditions) -> str | None:
    """The UUID of the row that a text means, or None; Misused if the first satisfied attempt has several rows."""
    for conditions in attempts:
        uuids = list(connection.execute(select(table.c.uuid).where(*conditions).limit(2)).scalars())
        if len(uuids) > 1:
            raise Misused(f"{text[:80]!r} means several {table.name}; write a UUID, or more of one")
        if uuids:
            return str(uuids[0])
    return None


def prefix_condition(column: Any, text: str) -> Conditions:
    """The condition that a UUID begins with a text, as a range that an index answers; too short a text has to be equal."""
    if len(text) < MIN_PREFIX or set(text) - set("0123456789abcdef-"):
        return (column == text[:36],)
    return (column >= text, column < text + "g")  # "g" comes after all that a UUID is written with


def parse_cursor(after: str) -> int:
    """The row number of a pagination token; Misused if it is not one."""
    if not (after.isascii() and after.isdigit() and len(after) <= MAX_DIGITS):
        raise Misused(f"{after[:40]!r} is not a valid pagination token; use `next` from the previous page")
    return int(after)


def equalities(values: Iterable[tuple[Any, object]]) -> list[Any]:
    """The conditions that columns equal values, where these are not None."""
    return [column == value for column, value in values if value is not None]


def filter_conditions(table: Table, wanted: Document, *names: str) -> list[Any]:
    """The conditions that columns equal the members of that name, where these are not None."""
    return equalities((table.c[name], getattr(wanted, name)) for name in names)


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Values in lists that one query takes."""
    for start in range(0, len(values), AT_ONCE):
        yield values[start : start + AT_ONCE]
