"""How a node speaks to its site: who is believed, what is an answer, what is one sentence."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.errors import NotFound
from catalog.schema.problems import to_problem
from deployer.errors import SiteUnavailable
from deployer.node.membership.credentials import SiteMembership
from deployer.node.membership.site_client import NodeSiteClient
from deployer.pki.ca import CertificateAuthority
from deployer.protocol.desired_state import Capacity, NodeReport
from signer.documents import canonical
from tests.support.node.fake_site import SiteDouble

REPORT = NodeReport(revision=1, architecture="x86_64", capacity=Capacity(cores=1, memory=1, disk=1))


@pytest.fixture
def site() -> Iterator[SiteDouble]:
    with SiteDouble() as site:
        yield site


def joined(directory: Path) -> SiteMembership:
    found = SiteMembership.read(directory / "site")
    assert found is not None
    return found


def test_a_node_says_who_it_is_and_hears_what_is_wanted(site: SiteDouble, tmp_path: Path) -> None:
    assert SiteMembership.read(tmp_path / "site") is None
    site.take_in(tmp_path)
    member = joined(tmp_path)
    assert (member.url, member.identity) == (site.url, site.authority.fingerprint)
    uuid = site.want()
    client = NodeSiteClient(member)
    found = client.desired(-1, 0)
    assert found is not None
    assert [machine.uuid for machine in found.machines] == [uuid]
    client.report(REPORT)
    assert site.reports == [REPORT]
    client.close()


def test_a_site_with_a_certificate_from_elsewhere_is_the_same_site(site: SiteDouble, tmp_path: Path) -> None:
    site.take_in(tmp_path)
    file = tmp_path / "site" / "site.pem"
    file.write_bytes(file.read_bytes() + CertificateAuthority.make(datetime.now(UTC)).certificate)
    assert joined(tmp_path).identity == site.authority.fingerprint


@pytest.mark.parametrize(
    ("sentence", "spoil", "says"),
    [
        ("another site answers there", "site.pem", "does not answer"),
        ("the key is another's", "key.pem", "certificate cannot be used"),
        ("the certificate is none", "certificate.pem", "certificate cannot be used"),
    ],
)
def test_whom_nobody_vouches_for_is_not_spoken_to(
    site: SiteDouble, tmp_path: Path, sentence: str, spoil: str, says: str
) -> None:
    site.take_in(tmp_path)
    other = CertificateAuthority.make(datetime.now(UTC))
    data = {"site.pem": other.certificate, "key.pem": other.key, "certificate.pem": b"nothing"}[spoil]
    (tmp_path / "site" / spoil).write_bytes(data)
    with pytest.raises(SiteUnavailable, match=says):
        NodeSiteClient(joined(tmp_path)).desired(-1, 0)
    assert site.reports == []


def test_a_ca_that_is_none_is_one_sentence(site: SiteDouble, tmp_path: Path) -> None:
    site.take_in(tmp_path)
    (tmp_path / "site" / "site.pem").write_text("nothing")
    with pytest.raises(SiteUnavailable, match="the site's credentials for this node cannot be used"):
        joined(tmp_path)


@pytest.mark.parametrize("status", [302, 403, 500])
def test_a_site_that_does_not_want_the_node_is_one_sentence(site: SiteDouble, tmp_path: Path, status: int) -> None:
    site.take_in(tmp_path)
    client = NodeSiteClient(joined(tmp_path))
    site.broken = status
    for ask in (lambda: client.desired(-1, 0), lambda: client.report(REPORT)):
        with pytest.raises(SiteUnavailable, match=f"it answers {status}"):
            ask()
    client.close()


def test_a_site_of_an_earlier_release_is_one_sentence(site: SiteDouble, tmp_path: Path) -> None:
    """It does not have the path, which says what has to be upgraded."""
    site.take_in(tmp_path)
    client = NodeSiteClient(joined(tmp_path))
    answer = to_problem(NotFound("there is nothing at /v2/agent/report; see /openapi.json"))
    site.broken, site.broken_answer = 404, canonical(answer)
    with pytest.raises(SiteUnavailable, match="the site's release does not have this node's API; upgrade the site"):
        client.report(REPORT)
    client.close()


def test_a_site_that_is_not_there_is_one_sentence(site: SiteDouble, tmp_path: Path) -> None:
    site.take_in(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "site" / "url").write_text(f"https://127.0.0.1:{free.getsockname()[1]}\n")
        client = NodeSiteClient(joined(tmp_path))
        with pytest.raises(SiteUnavailable, match="the site does not answer"):
            client.desired(-1, 0)
        client.close()
