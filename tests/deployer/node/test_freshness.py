"""A node starts nothing from what is not known to be current: no root, another's root, metadata that has expired."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from catalog.client.trusted import pin_root
from catalog.errors import Equivocation, Stale, Unpinned, Unverified
from deployer.node.node import Node
from deployer.node.settings import DeploySettings
from signer.documents import validate
from stager.settings import NodeSettings
from tests.support.catalog.fake_tuf_repository import Repository
from tests.support.catalog.service_process import first_root
from tests.support.node.community import Community
from tests.support.node.service_process import order, policy

pytestmark = pytest.mark.guest


def opened(directory: Path, community: Community, clock: Callable[[], datetime], **settings: object) -> Node:
    """A node in this process, with its own clock; no guest is started by these tests."""
    (directory / "policy.toml").write_text(policy(community.star.anchor()))
    given = {
        "directory": str(directory / "n"),
        "catalog": community.service.url,
        "cache_quota": 1 << 30,
        "swarm": False,
    }
    deploy = {"policy": str(directory / "policy.toml"), "accelerator": "tcg", "network": "none"} | {
        "libvirt": "test:///default"
    }
    return Node.open(
        validate(NodeSettings, given | settings, "node"), validate(DeploySettings, deploy, "deploy"), clock
    )


def test_nothing_is_decided_from_what_is_not_current(
    community: Community, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without a root; with one; a day later; with the clock a day behind; and after an alarm, which is on record."""
    place = tmp_path_factory.mktemp("f")
    shift = timedelta()

    def clock() -> datetime:
        return datetime.now(UTC) + shift

    node = opened(place, community, clock)
    try:
        with pytest.raises(Unpinned, match="no TUF root"):
            node.decide(order("star/hello@1.0"))
        assert "no TUF root" in str(node.status().fresh_problem)
        pin_root(node.settings.pinned_root, first_root(community.service.url))
        assert node.decide(order("star/hello@1.0")).accepted
        assert node.status().fresh_problem is None
        shift = timedelta(days=1, minutes=1)
        with pytest.raises(Stale):
            node.decide(order("star/hello@1.0"))
        assert "expired" in str(node.status().fresh_problem)
        shift = timedelta(days=-1)
        with pytest.raises(Stale, match="clock"):
            node.decide(order("star/hello@1.0"))
        shift = timedelta()
        assert node.decide(order("star/hello@1.0")).accepted
        names = node.settings.freshness / "names"
        names.write_text(names.read_text().replace(community.hello.manifest.image_id, "sha256:" + "0" * 64))
    finally:
        node.close()
    node = opened(place, community, clock)
    try:
        with pytest.raises(Equivocation):
            node.decide(order("star/hello@1.0"))
        assert '"kind":"alarm"' in (node.settings.directory / "audit.jsonl").read_text()
    finally:
        node.close()


def test_another_catalogs_root_believes_nothing_here(
    community: Community, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("f")
    (place / "root.json").write_bytes(Repository().roots[0])
    node = opened(place, community, lambda: datetime.now(UTC), tuf_root=str(place / "root.json"))
    try:
        with pytest.raises(Unverified):
            node.decide(order("star/hello@1.0"))
    finally:
        node.close()
