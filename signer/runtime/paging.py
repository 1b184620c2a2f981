"""Lists that come page by page."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
C = TypeVar("C")


def walk_pages(read: Callable[[C | None], tuple[Iterable[T], C | None]]) -> Iterator[T]:
    """Everything that is on the pages of a list.

    Args:
        read: returns the items of the page that a cursor names, or of the first for None, and the cursor of the next. None ends
            the list, and so does a cursor that does not advance: the other side may be hostile.
    """
    cursor: C | None = None
    while True:
        items, following = read(cursor)
        yield from items
        if following is None or following == cursor:
            return
        cursor = following
