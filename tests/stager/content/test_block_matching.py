"""Where blocks are found, and in how few copies."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.content.indexing import HINT_BLOCK
from stager.content.block_matching import BlockCopy, match_blocks, missing_runs


def found(wanted: list[int], *donors: list[int], window: int = 1 << 19) -> list[BlockCopy]:
    return match_blocks(wanted, range(len(wanted)), [partial(list[int], donor) for donor in donors], window=window)


CASES: dict[str, tuple[list[int], list[list[int]], list[BlockCopy]]] = {
    "nothing is here": ([1, 2, 3], [[7, 8]], []),
    "no donors": ([1, 2], [], []),
    "an edit in place": ([1, 2, 9, 4], [[1, 2, 3, 4]], [BlockCopy(0, 0, 0, 2), BlockCopy(0, 3, 3, 1)]),
    "moved by one": ([9, 1, 2, 3], [[1, 2, 3]], [BlockCopy(0, 0, 1, 3)]),
    "zeros are never copied": ([0, 1, 0], [[0, 1, 0]], [BlockCopy(0, 1, 1, 1)]),
    "the same offset wins over an earlier one": ([5, 6], [[6, 6]], [BlockCopy(0, 1, 1, 1)]),
    "a run goes on rather than begin again": ([9, 4, 5], [[5, 7, 7, 4, 5]], [BlockCopy(0, 3, 1, 2)]),
    "from two donors": ([1, 2, 3, 4], [[1, 2], [3, 4]], [BlockCopy(0, 0, 0, 2), BlockCopy(1, 0, 2, 2)]),
    "twice in the new content": ([1, 1], [[1]], [BlockCopy(0, 0, 0, 1), BlockCopy(0, 0, 1, 1)]),
}


@pytest.mark.parametrize(("wanted", "donors", "copies"), CASES.values(), ids=CASES.keys())
def test_blocks_are_found(wanted: list[int], donors: list[list[int]], copies: list[BlockCopy]) -> None:
    assert found(wanted, *donors) == copies


blocks = st.lists(st.integers(0, 12), max_size=30)


@given(blocks, st.lists(blocks, max_size=3), st.integers(1, 40))
def test_everything_that_is_here_is_found_once_and_is_what_was_wanted(
    wanted: list[int], donors: list[list[int]], window: int
) -> None:
    copies = found(wanted, *donors, window=window)
    targets = [copy.target + at for copy in copies for at in range(copy.count)]
    here = {hint for donor in donors for hint in donor}
    assert targets == [block for block, hint in enumerate(wanted) if hint and hint in here]
    for copy in copies:
        donor = donors[copy.donor]
        assert donor[copy.source : copy.source + copy.count] == wanted[copy.target : copy.target + copy.count]


def test_only_wanted_blocks_are_looked_up() -> None:
    assert match_blocks([1, 2, 3, 4], [1, 2, 9], [lambda: [1, 2, 3, 4]]) == [BlockCopy(0, 1, 1, 2)]


def test_what_is_lacking_is_runs_of_whole_blocks_up_to_the_end() -> None:
    end = 5 * HINT_BLOCK + 100
    assert missing_runs(0, end, {0, 3}.__contains__) == [(HINT_BLOCK, 3 * HINT_BLOCK), (4 * HINT_BLOCK, end)]
    assert missing_runs(0, end, range(6).__contains__) == []
