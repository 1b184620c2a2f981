"""What members of a cluster learn of each other, and when: who waits for whom, and whose keys are told."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from deployer.machine.state import MachineState
from deployer.site.broker.peers import PeerDirectory
from deployer.site.broker.rules import usable_address
from deployer.site.db.machines import list_machines
from tests.deployer.guest.test_nocloud_seed import public_key
from tests.support.site.context_broker import BLOB, KEY, Make, Star, World

# Peers


def test_workers_wait_until_their_head_is_ready_and_the_head_waits_for_nobody(star: Star) -> None:
    world, head, one, _ = star
    assert head.said("/peers") == {"complete": True, "missing": {}, "peers": []}
    assert one.said("/peers") == {"complete": False, "missing": {"head": 1}, "peers": []}
    head.publish("address", "10.0.0.1")
    assert one.said("/peers?standing=present")["complete"]
    assert not one.said("/peers")["complete"]
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(one.said("/peers?wait=30")))
    waiting.start()
    time.sleep(0.3)
    assert found == []
    head.publish("munge.key", b"secret of the cluster")
    head.publish("ssh-host-keys", KEY)
    head.ask("POST", "/ready")
    waiting.join(60)
    (peers,) = found
    assert peers == {
        "complete": True,
        "missing": {},
        "peers": [
            {
                "machine": head.machine.uuid,
                "hostname": "star-head-1",
                "role": "head",
                "standing": "ready",
                "addresses": ["10.0.0.1"],
                "host_keys": [BLOB],
                "published": {"address": 8, "munge.key": 21, "ssh-host-keys": len(KEY)},
            }
        ],
    }
    assert one.ask("GET", "/peers/star-head-1/published/munge.key").body == b"secret of the cluster"
    assert one.ask("GET", f"/peers/{head.machine.uuid}/published/munge.key").body == b"secret of the cluster"
    assert one.ask("GET", "/hosts").text == "10.0.0.1 star-head-1\n"
    assert one.ask("GET", "/known_hosts").text == f"star-head-1,10.0.0.1 {BLOB}\n"
    world.observed(head.machine, "192.168.122.7")  # what the site sees counts more than what a guest says
    assert one.ask("GET", "/hosts").text == "192.168.122.7 star-head-1\n"


def test_members_of_one_role_find_each_other_before_any_is_ready(made: tuple[World, Make]) -> None:
    world, make = made
    ring = {"name": "ring", "roles": {"node": {"image": "a/b@1", "count": 3, "provides": ["mpi"], "requires": ["mpi"]}}}
    cluster = world.cluster(ring)
    nodes = [
        make(machine).enter() for machine in world.machines(3, cluster=cluster.uuid, role="node", hostname="ring-node")
    ]
    assert nodes[0].said("/identity")["requires"] == {"node": 2}
    for number, guest in enumerate(nodes[:2], 1):
        guest.publish("address", f"10.0.0.{number}")
    assert nodes[0].said("/peers")["missing"] == {"node": 1}
    nodes[2].publish("address", "10.0.0.3")
    for guest in nodes:
        found = guest.said("/peers")
        assert found["complete"]
        assert guest.machine.hostname not in [peer["hostname"] for peer in found["peers"]]


def test_a_role_that_never_speaks_is_there_as_soon_as_it_runs(made: tuple[World, Make]) -> None:
    world, make = made
    silent = {
        "name": "quiet",
        "roles": {
            "store": {"image": "a/b@1", "provides": ["files"], "ready": "running"},
            "user": {"image": "a/b@1", "requires": ["files"]},
        },
    }
    cluster = world.cluster(silent)
    (store,) = world.machines(1, cluster=cluster.uuid, role="store", hostname="quiet-store")
    user = make(world.machines(1, cluster=cluster.uuid, role="user", hostname="quiet-user")[0]).enter()
    assert not user.said("/peers")["complete"]
    world.observed(store, "10.0.0.9", state=MachineState.BOOTING)
    assert not user.said("/peers")["complete"]
    world.observed(store, "10.0.0.9")
    assert user.said("/peers")["complete"]
    assert user.ask("GET", "/hosts").text == "10.0.0.9 quiet-store-1\n"


def test_peers_that_are_over_or_whose_secret_two_parties_showed_are_not_told_of(star: Star) -> None:
    _, head, one, _ = star
    head.publish("address", "10.0.0.1")
    head.ask("POST", "/ready")
    assert one.said("/peers")["complete"]
    head.knock()
    assert one.said("/peers")["peers"] == []
    assert one.ask("GET", "/peers/star-head-1/published/address").status == 403


def test_hosts_keys_are_told_to_the_requester_as_known_hosts_lines(star: Star) -> None:
    world, head, one, two = star
    world.observed(head.machine, "10.0.0.1", "fd00::1")
    other = public_key("ecdsa-sha2-nistp256")
    for guest in (head, one):
        guest.publish("ssh-host-keys", f"{KEY}\n{other}\n")
    lines = world.broker.directory.known_hosts(head.machine.deployment)
    assert lines == [f"star-head-1,10.0.0.1,fd00::1 {key}" for key in (BLOB, " ".join(other.split(" ")[:2]))]
    assert [line.split(" ")[0] for line in world.broker.directory.known_hosts(one.machine.deployment)] == [
        "star-worker-1"
    ] * 2
    two.publish("ssh-host-keys", KEY)
    two.knock()
    assert "star-worker-2" not in str(world.broker.directory.known_hosts(one.machine.deployment))


@pytest.mark.parametrize(
    ("text", "found"),
    [("10.0.0.1/24", "10.0.0.1"), ("FD00::1", "fd00::1"), ("fe80::1", None), ("x", None), ("", None), ("::", None)],
)
def test_addresses_that_nodes_report_are_read(text: str, found: str | None) -> None:
    assert usable_address(text) == found


def test_machines_that_wait_share_what_one_of_them_has_read(own: tuple[World, Make]) -> None:
    world, make = own
    machines = world.star()
    head, one, two = (make(machine).enter() for machine in machines)
    now, reads = 0.0, 0
    read = world.store.read

    def counting(query: Any, *args: Any, **values: Any) -> Any:
        nonlocal reads
        reads += query is list_machines
        return read(query, *args, **values)

    known = SimpleNamespace(read=counting, database=world.database)
    meeting = PeerDirectory(known, lambda: now, 0.5)  # type: ignore[arg-type]
    for machine in (one.machine, two.machine, one.machine):
        assert not meeting.peers(machine, patient=True).complete
    assert reads == 1
    head.publish("address", "10.0.0.1")
    head.ask("POST", "/ready")
    assert meeting.peers(one.machine).complete  # who does not wait is told what is true now
    assert not meeting.peers(one.machine, patient=True).complete
    now = 0.6
    assert meeting.peers(one.machine, patient=True).complete
    assert reads == 3
