"""Lists that come page by page, from honest and other sources."""

from itertools import islice

from signer.runtime.paging import walk_pages


def test_all_items_come_in_order() -> None:
    pages = {None: ([1, 2], "a"), "a": ([], "b"), "b": ([3], None)}
    assert list(walk_pages(lambda cursor: pages[cursor])) == [1, 2, 3]


def test_a_page_is_read_when_it_is_wanted() -> None:
    asked: list[int | None] = []

    def read(cursor: int | None) -> tuple[list[int], int]:
        asked.append(cursor)
        return [0, 0], (cursor or 0) + 1

    assert list(islice(walk_pages(read), 3)) == [0, 0, 0]
    assert asked == [None, 1]


def test_a_list_that_does_not_advance_ends() -> None:
    assert list(walk_pages(lambda _cursor: ([1], "same"))) == [1, 1]
