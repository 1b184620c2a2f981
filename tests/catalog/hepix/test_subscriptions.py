"""Subscriptions: whose lists a site believes, what may follow a list, and which images are taken."""

from pathlib import Path

import pytest

from catalog.errors import (
    CatalogError,
    Equivocation,
    NotEntitled,
    Stale,
    Unverified,
)
from catalog.hepix.subscriptions import Subscriptions
from tests.support.catalog.image_lists import ONE, OTHER, TWO, World
from tests.support.grid_ca import DAY, utc_now


def test_a_new_list_is_believed_only_for_whom_the_site_names(world: World, tmp_path: Path) -> None:
    message = world.sign(world.list())
    with pytest.raises(Unverified, match="is new here"):
        world.open(message, tmp_path, endorser=None)
    found, subscription = world.open(message, tmp_path)
    Subscriptions(tmp_path).keep(subscription, message)
    again, _ = world.open(message, tmp_path, endorser=None, every=False)
    assert again == found
    kept = [path.read_bytes() for path in tmp_path.rglob("*.smime")]
    assert kept == [message]


SECOND: dict[str, tuple[dict[str, object], type[CatalogError] | None]] = {
    "the next version": ({"version": "2.1"}, None),
    "a later version by number, not by letter": ({"version": "10.0"}, None),
    "an older version": ({"version": "1.9"}, Unverified),
    "the same version with another content": ({"title": "Other"}, Equivocation),
    "expired": ({"version": "3", "expires": utc_now() - DAY}, Stale),
    "made tomorrow": ({"version": "3", "created": utc_now() + DAY}, Stale),
}


@pytest.mark.parametrize("case", SECOND)
def test_what_may_follow_a_list(world: World, tmp_path: Path, case: str) -> None:
    changes, error = SECOND[case]
    first = world.sign(world.list())
    Subscriptions(tmp_path).keep(world.open(first, tmp_path)[1], first)
    second = world.sign(world.list(**changes))
    if error is None:
        assert world.open(second, tmp_path)[0].images
        return
    with pytest.raises(error):
        world.open(second, tmp_path)


def test_new_images_are_not_taken_unasked(world: World, tmp_path: Path) -> None:
    first = world.sign(world.list())
    with pytest.raises(NotEntitled, match="imported only on request"):
        world.open(first, tmp_path, every=False)
    _, known = world.open(first, tmp_path, every=False, images=frozenset({ONE}))
    Subscriptions(tmp_path).keep(known, first)
    second = world.sign(world.list(world.image(), world.image(identifier=TWO), version="3"))
    assert world.open(second, tmp_path, every=False)[1].images == (ONE,)
    with pytest.raises(NotEntitled, match="has no image"):
        world.open(second, tmp_path, every=False, images=frozenset({OTHER}))
