"""A site that bursts: its service works its account at EC2 as a node of its own, through what stands in for AWS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.ec2.settings import Ec2Settings
from deployer.errors import NoCapacity
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.client.client import SiteClient
from deployer.site.model.records import SiteNode
from signer.documents import validate
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.site_with_pool import PRICES, Images, account
from tests.support.node.service_process import policy
from tests.support.site.service_process import PaperNode, SiteProcess


@pytest.fixture
def site(images: Images, world: AwsWorld, profile: str, tmp_path: Path) -> Iterator[SiteProcess]:
    """A site with one account."""
    found = account(world, profile)
    prices = ", ".join(f'"{name}" = "{price}"' for name, price in PRICES["per_hour"].items())  # type: ignore[attr-defined]
    groups, types = (", ".join(f'"{one}"' for one in many) for many in (found.security_groups, found.instance_types))
    (tmp_path / "ec2.toml").write_text(
        f'[[account]]\nname = "burst"\nregion = "{found.region}"\nprofile = "{profile}"\nsubnet = "{found.subnet}"\n'
        f'security_groups = [{groups}]\ninstance_types = [{types}]\ncap = "100"\ncores = 64\nmemory = "256GiB"\n'
        f'disk = "4TiB"\nprices = {{ per_hour = {{ {prices} }}, storage = "0.10" }}\n'
    )
    settings = Ec2Settings(
        accounts=tmp_path / "ec2.toml",
        directory=tmp_path / "ec2",
        endpoint=world.url,
        workers=4,
        cache_quota=1 << 30,
    )
    text = policy(images.star.anchor(), memory=4 << 30)
    with SiteProcess(images.service.url, text, ec2=settings, variables=world.variables(), network="user") as process:
        yield process


def _pool(client: SiteClient) -> SiteNode | None:
    """The account, once it has reported."""
    found = [one for one in client.nodes() if one.kind == "ec2" and one.reported is not None]
    return found[0] if found else None


@pytest.mark.timeout(240)
def test_what_the_site_has_no_room_for_goes_to_ec2(site: SiteProcess, world: AwsWorld) -> None:
    """One machine runs on the site's own node and one at EC2; both end; the pool is the same after a restart."""
    pool = site.wait(_pool)
    assert (pool.name, pool.capacity.cores) == ("burst", 64)
    own = PaperNode(site, "own", cores=1)
    with site.client() as client, pytest.raises(NoCapacity):
        client.create(_order(count=2, where="local"), "k0")
    with site.client() as client:
        ordered = client.create(_order(count=2, where="local-then-ec2"), "k1")
        explained = " ".join(client.explain(ordered.deployment.uuid).placement)
    assert "capacity for 1 of 2" in explained
    assert {one.node for one in ordered.machines} == {pool.uuid, own.joined.node}
    away = next(one for one in ordered.machines if one.node == pool.uuid)
    site.wait_state(away.uuid, "running", seconds=120)
    site.kill()
    site.start()
    again = site.wait(_pool)
    assert again.uuid == pool.uuid
    with site.client() as client:
        client.destroy_deployment(ordered.deployment.uuid)
    site.wait_state(away.uuid, "ended", seconds=120)
    own.step()


def _order(count: int, where: str) -> DeploymentRequest:
    return validate(
        DeploymentRequest, {"image": "star/hello@1.0", "count": count, "placement_options": {"where": where}}, "order"
    )
