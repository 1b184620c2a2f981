"""One stand-in for AWS for the tests of a worker process; each test has an account of its own in it."""

from collections.abc import Iterator

import pytest

from tests.support.aws.fake_aws import AwsWorld, aws_world
from tests.support.aws.site_with_pool import Images, catalog_of_images


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsWorld]:
    """The processes. Each package of tests that imports this has its own, so `world` sets the environment."""
    with aws_world(tmp_path_factory.mktemp("aws")) as world:
        yield world


@pytest.fixture
def world(shared_world: AwsWorld) -> Iterator[AwsWorld]:
    """Nothing goes wrong at the beginning of a test."""
    shared_world.faults()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared_world.variables().items():
            patch.setenv(name, value)
        yield shared_world
    shared_world.faults()


@pytest.fixture
def profile(world: AwsWorld) -> str:
    """An account of the test's own."""
    return world.profile()


@pytest.fixture(scope="session")
def images() -> Iterator[Images]:
    """A catalog with images that no test changes."""
    with catalog_of_images() as found:
        yield found
