"""Deployments over the API: one answer for one key, and trials that keep nothing."""

import pytest

from catalog.errors import Conflict
from deployer.errors import NoCapacity, Refused
from deployer.protocol.deployment_request import PlacementOptions
from tests.support.site.api_calls import HELLO, key, plain
from tests.support.site.service_process import PaperNode, People, SiteProcess

pytestmark = pytest.mark.usefixtures("alone")


def test_an_order_has_one_answer_however_often_it_is_sent(site: SiteProcess, node: PaperNode, people: People) -> None:
    """The same key and request: the same machines. The same key and another request: a conflict."""
    with plain(site, people.star("ann")) as asked:
        headers = {"Idempotency-Key": key()}
        first = asked.post("/v2/deployments", content=HELLO.model_dump_json(), headers=headers)
        assert first.status_code == 201, first.text
        assert first.headers["location"] == f"/v2/deployments/{first.json()['deployment']['uuid']}"
        again = asked.post("/v2/deployments", content=HELLO.model_dump_json(), headers=headers)
        assert again.status_code == 200
        assert again.json()["deployment"] == first.json()["deployment"]
        assert again.json()["machines"] == first.json()["machines"]
        other = asked.post(
            "/v2/deployments", content=HELLO.model_copy(update={"count": 2}).model_dump_json(), headers=headers
        )
        assert (other.status_code, other.json()["type"]) == (409, f"urn:partita:problem:{Conflict.code}")


def test_a_trial_says_what_would_come_and_keeps_nothing(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Accepted with bytes to fetch; refused with the rule that refuses; without room."""
    with site.reach(token=people.star("ann")) as ann:
        before = len(list(ann.deployments()))
        trial = ann.trial(HELLO)
        assert (trial.accepted, trial.placed) == (True, True)
        assert trial.fetch[node.joined.node] > 0
        forged = ann.trial(HELLO.model_copy(update={"image": "rogue/hello@1.0"}))
        assert not forged.accepted
        with pytest.raises(Refused) as refused:
            ann.create(HELLO.model_copy(update={"image": "rogue/hello@1.0"}), key())
        assert refused.value.decision is not None
        nowhere = HELLO.model_copy(update={"placement_options": PlacementOptions(labels={"gpu": "yes"})})
        assert not ann.trial(nowhere).placed
        with pytest.raises(NoCapacity, match="gpu"):
            ann.create(nowhere, key())
        assert len(list(ann.deployments())) == before
