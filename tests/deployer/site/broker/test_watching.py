"""Peers that come and go: who knows some waits for others, and who is watched is told of without being waited for."""

import re
import threading
from pathlib import Path
from typing import Any

from deployer.site.model.cluster import ClusterDocument
from signer.documents import validate
from tests.support.node.service_process import wait_for
from tests.support.site.context_broker import site


def test_whoever_knows_its_peers_waits_for_others(tmp_path: Path) -> None:
    """The tag is the same for the same peers; another one comes when somebody has something to tell, and not before."""
    with site(tmp_path) as (world, make):
        head, one, two = world.star()
        for machine in (head, one, two):
            world.observed(machine, f"10.0.0.{machine.number}")
        guest = make(one).enter()
        nobody = guest.said("/peers?known=")
        assert guest.ask("GET", f"/peers?known={nobody['tag']}").status == 204
        other = make(head).enter()
        assert guest.ask("GET", f"/peers?known={nobody['tag']}").status == 204  # it is there, and not ready
        found: list[Any] = []
        waiting = threading.Thread(target=lambda: found.append(guest.said(f"/peers?wait=30&known={nobody['tag']}")))
        waiting.start()
        assert other.ask("POST", "/ready").status == 204
        waiting.join(60)
        assert [peer["hostname"] for peer in found[0]["peers"]] == ["star-head-1"]
        assert other.publish("munge.key", "k").status == 204
        wait_for(lambda: guest.ask("GET", f"/peers?known={found[0]['tag']}").status == 200)
        text = guest.ask("GET", "/peers?known=", Accept="text/plain").text
        assert re.fullmatch(r"complete yes\ntag [0-9a-f]{32}\npeer star-head-1 head ready 10.0.0.1\ndata .*\n", text)


def test_who_is_watched_is_told_of_and_not_waited_for() -> None:
    document = validate(
        ClusterDocument,
        {
            "name": "star",
            "roles": {
                "head": {"image": "star/head", "provides": ["batch"], "watches": ["work", "batch"]},
                "worker": {"image": "star/worker", "count": 3, "requires": ["batch"], "provides": ["work"]},
            },
        },
        "cluster",
    )
    assert document.before("head") == ()
    assert document.watched("head") == ("head", "worker")
    assert document.watched("worker") == ()
