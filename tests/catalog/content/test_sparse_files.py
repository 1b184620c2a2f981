"""Runs of data in sparse files."""

from catalog.content.sparse_files import merge_runs


def test_runs_are_joined_until_they_fit() -> None:
    """Near ones first; never more than asked for."""
    runs = [(0, 10), (15, 20), (100, 110), (1000, 1010)]
    assert merge_runs(runs, 1, 9) == runs
    assert merge_runs(runs, 6, 9) == [(0, 20), (100, 110), (1000, 1010)]
    assert merge_runs(runs, 1, 2) == [(0, 110), (1000, 1010)]
    assert merge_runs(runs, 1, 1) == [(0, 1010)]
