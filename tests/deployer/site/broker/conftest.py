"""Fixtures of the broker's tests: a site whose clock stands still, and guests on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site.context_broker import Guest, Make, Star, World, site


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Make]]:
    """A site whose clock stands still, shared by tests with machines of their own."""
    with site(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[World, Make]]:
    """A site of the test's own: it moves the clock, or looks into the database."""
    with site(tmp_path) as found:
        yield found


@pytest.fixture
def world(made: tuple[World, Make]) -> World:
    return made[0]


@pytest.fixture
def lone(made: tuple[World, Make]) -> Guest:
    """A machine without a cluster, with a session."""
    world, make = made
    return make(world.machines()[0]).enter()


@pytest.fixture
def star(made: tuple[World, Make]) -> Star:
    """A head and two workers, all with sessions."""
    world, make = made
    head, one, two = (make(machine).enter() for machine in world.star())
    return world, head, one, two
