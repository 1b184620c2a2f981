"""Updates of a real filesystem, staged from a real catalog: what comes over the wire, headers and hints included."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import update
from catalog.content.indexing import index_file

SIZE = 96 << 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A filesystem, the same edited in place, the same made anew."""
    if not all(shutil.which(tool, path=update.SYSTEM["PATH"]) for tool in ("mkfs.ext4", "debugfs")):
        pytest.skip("mkfs.ext4 and debugfs are not installed")
    return update.images(tmp_path_factory.mktemp("images"), SIZE, 1500)


@pytest.mark.parametrize(
    ("made_anew", "bound", "times"),
    [(False, update.Pair.by_leaf, 1.1), (True, update.Pair.by_block, 1.5)],
    ids=["edited in place", "made anew"],
)
def test_little_more_than_the_difference_is_sent(
    images: tuple[Path, Path, Path], tmp_path: Path, made_anew: bool, bound: Callable[[update.Pair], int], times: float
) -> None:
    old, new = images[0], images[1 + made_anew]
    pair = update.Pair(old, new, index_file(old), index_file(new))
    wire, _, _ = update.ours(pair, tmp_path)
    assert wire <= times * bound(pair)
    assert wire < new.stat().st_size // 10
