"""Nodes over the API: join tokens, certificates, draining and leaving."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import Conflict, Misused
from deployer.errors import DeployerError, Forbidden, JoinRefused, NoCapacity
from deployer.pki.ca import create_request
from deployer.protocol.deployment_request import PlacementOptions
from deployer.protocol.joining import JoinRequest, parse_token
from deployer.site.client.client import SiteClient, fetch_anchors
from deployer.site.client.endpoint import SiteEndpoint
from tests.support.site.api_calls import HELLO, key
from tests.support.site.service_process import PaperNode, People, SiteProcess

pytestmark = pytest.mark.usefixtures("alone")


def test_nodes_drain_and_leave(site: SiteProcess, node: PaperNode, people: People) -> None:
    """A node that drains gets nothing new; one that left has no say, and its name is free."""
    other = PaperNode(site, "other", cores=100, memory=200 << 30, gpu="yes")
    wanted = HELLO.model_copy(update={"placement_options": PlacementOptions(labels={"gpu": "yes"})})
    with site.reach(token=people.own("sec", "/site/security")) as security:
        # What a node said of itself when it joined holds until it reports something else.
        other.step(labels={"gpu": "yes"})
        assert security.do_node("other", "drain", "new disks").state.value == "draining"
        assert other.step(labels={"gpu": "yes"}).draining
        with site.reach(token=people.star("ann")) as ann, pytest.raises(NoCapacity, match="not taking machines"):
            ann.create(wanted, key())
        assert security.do_node("other", "undrain").state.value == "ready"
        ordered = site.deploy(placement_options={"labels": {"gpu": "yes"}})
        assert security.do_node("other", "remove").state.value == "left"
        assert security.machine(ordered.machines[0].uuid).state.final
        with pytest.raises(DeployerError, match="removed from the site"):
            other.step()
        PaperNode(site, "other")
        security.do_node("other", "remove")
    with site.reach(token=people.star("ann")) as ann, pytest.raises(Forbidden):
        ann.do_node("paper", "drain")


class _Joiner:
    """Somebody with a token."""

    def __init__(self, site: SiteProcess) -> None:
        self.secret, fingerprint = parse_token(site.token())
        self.way = SiteEndpoint(url=site.url, ca=fetch_anchors(site.url, fingerprint).certificates)

    def join(self, **changes: Any) -> str:
        """Try; returns the certificate."""
        wanted = {"token": self.secret, "request": create_request()[1], "name": f"j{uuid.uuid4().hex[:8]}"} | changes
        with SiteClient(self.way) as client:
            return client.join(JoinRequest(**wanted)).certificate


def test_a_token_lets_one_node_join_once(site: SiteProcess) -> None:
    """Not twice, not with a guess, not with a request that is none; and such a request does not cost the token."""
    joiner = _Joiner(site)
    for request in ("", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"):
        with pytest.raises(Misused, match="certificate request"):
            joiner.join(request=request)
    with pytest.raises(JoinRefused):
        joiner.join(token="x" * 43)
    assert "BEGIN CERTIFICATE" in joiner.join()
    with pytest.raises(JoinRefused):
        joiner.join()
    with pytest.raises(Conflict):
        _Joiner(site).join(name="paper")


def test_only_the_sites_own_certificates_are_taken(site: SiteProcess, node: PaperNode, tmp_path: Path) -> None:
    """One of another site's CA ends the handshake; a node's own, renewed, works on."""
    with SiteProcess() as foreign:
        stranger = PaperNode(foreign, "stranger")
        with pytest.raises(DeployerError), site.reach(**stranger.files) as client:
            client.nodes()
    with node.client() as asked:
        fresh = asked.renew(new_request_for(node))
    (node.directory / "certificate.pem").write_text(fresh)
    node.step()


def new_request_for(node: PaperNode) -> str:
    """A request for a certificate for a node's present key."""
    from deployer.pki.ca import request_for

    return request_for(node.files["key"].read_bytes())
