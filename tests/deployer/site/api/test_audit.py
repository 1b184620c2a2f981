"""Who did what at a site: written with each event, and read by those who may, filtered and page by page."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from deployer.errors import Forbidden
from deployer.site.client.client import SiteClient
from deployer.site.client.discovery import operator_socket
from deployer.site.model.principal import LOCAL_OPERATOR
from deployer.site.model.records import AuditRecord
from tests.support.site.service_process import PaperNode, People, SiteProcess, populace


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Two issuers."""
    with populace(tmp_path_factory.mktemp("people")) as found:
        yield found


def test_security_reads_what_everybody_did(
    people: People, make_site: Callable[..., SiteProcess], tmp_path: Path
) -> None:
    """Over the API, the command's client and the console's page; those who may not are refused."""
    site = make_site(**people.settings())
    node = PaperNode(site, "paper")
    with site.client() as operator:
        operator.do_node("paper", "drain", "maintenance")
        operator.do_node("paper", "undrain")
    assert node.step().revision
    with site.reach(token=people.star("ann")) as ann, pytest.raises(Forbidden):
        list(ann.audit(10))
    with site.reach(token=people.own("sam", "/site/security")) as sam:
        drained = _one(sam, "draining")
        assert (drained.by, drained.owner, drained.event.reason) == (
            LOCAL_OPERATOR.identity,
            "",
            "maintenance (by operator)",
        )
        assert _one(sam, "joined").by == ""
        assert [one.event.what for one in sam.audit(1)] == ["ready"]
        assert list(sam.audit(10, by="nobody")) == []
        assert list(sam.audit(10, machine="nothing")) == []
        assert [one.event.what for one in sam.audit(50, machine=drained.event.subject)][-1] == "joined"
        assert list(sam.audit(10, until="2020-01-01T00:00:00Z")) == []
        assert len(list(sam.audit(10, since="2020-01-01T00:00:00"))) >= 3
    with httpx2.Client(
        transport=httpx2.HTTPTransport(uds=str(operator_socket(site.settings))), base_url="http://site", timeout=60
    ) as raw:
        first = raw.get("/v2/audit", params={"limit": 1}).json()
        second = raw.get("/v2/audit", params={"limit": 1, "after": first["next"]}).json()
        assert second["items"][0]["event"]["number"] == first["items"][0]["event"]["number"] - 1
        for wrong in ({"since": "yesterday"}, {"after": "x"}, {"limit": 0}):
            assert raw.get("/v2/audit", params=wrong).status_code == 400
        assert "by" not in raw.get("/v2/events").text.replace("(by operator)", "").replace("asked for by operator", "")


def _one(client: SiteClient, what: str) -> AuditRecord:
    return next(one for one in client.audit(100) if one.event.what == what)
