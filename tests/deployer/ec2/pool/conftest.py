"""A site whose machines run at EC2."""

from pathlib import Path

import pytest

from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.site_with_pool import Ec2Site, Images, account


@pytest.fixture
def host(images: Images, world: AwsWorld, profile: str, tmp_path: Path) -> Ec2Site:
    return Ec2Site(images, world, tmp_path / "host", account(world, profile))
