"""A machine that was suspended on one node goes on on another: real nodes, a real site, a guest whose memory says so."""

import socket
from collections.abc import Callable, Sequence
from hashlib import sha256

import pytest

from deployer.records.receipt import read_receipt
from tests.support.node.boot_sector_guest import GOODBYE, SAID
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy, wait_for
from tests.support.site.service_process import PATIENCE, SiteProcess

Make = Callable[..., SiteProcess]
Member = Callable[..., NodeProcess]


def free_port() -> int:
    """One that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return int(trial.getsockname()[1])


def movers(make_site: Make, make_member: Member, community: Community) -> tuple[SiteProcess, NodeProcess, NodeProcess]:
    """A site, and two nodes that migrate machines to each other."""
    site = make_site(community.service.url, policy(community.star.anchor()), overcommit_cores=8.0)
    one, two = (make_member(site, name, migration_listen=f"127.0.0.1:{free_port()}") for name in ("one", "two"))
    site.wait(lambda client: sum(node.migration_support is not None for node in client.nodes()) == 2)
    return site, one, two


def ends(nodes: Sequence[NodeProcess], site: SiteProcess, machine: str) -> tuple[NodeProcess, NodeProcess]:
    """Of two nodes, that where a machine runs, and the other."""
    site.wait_state(machine, "running")
    one, two = nodes
    return (one, two) if (one.machines / machine).exists() else (two, one)


def told(site: SiteProcess, machine: str) -> list[str]:
    """What was told of a machine since it ran first."""
    with site.client() as client:
        found = [one.what for one in client.events(0).items if one.subject == machine]
    return found[found.index("running") + 1 :]


@pytest.mark.guest
@pytest.mark.timeout(240)
def test_a_suspended_machine_goes_on_on_another_node(
    make_site: Make, make_member: Member, community: Community
) -> None:
    """What its memory held goes on there, with its console, and the node that it left has nothing of it."""
    site, *nodes = movers(make_site, make_member, community)
    uuid = site.deploy().machines[0].uuid
    source, target = ends(nodes, site, uuid)
    source.said(uuid, SAID[-1], PATIENCE)
    with site.client() as client:
        client.do(uuid, "suspend")
        site.wait_state(uuid, "suspended")
        client.do(uuid, "reactivate", "its node is needed", elsewhere=True)
    site.wait_state(uuid, "running")
    assert (source.guests(), len(target.guests())) == ([], 1)
    site.wait(lambda client: client.machine(uuid).migration is None)
    assert not (source.machines / uuid).exists()
    with site.client() as client:
        client.do(uuid, "shutdown")  # the loop that hears the power button is in its memory, not on its disk
    target.said(uuid, GOODBYE, PATIENCE)
    site.wait_state(uuid, "stopped")
    assert target.console(uuid).count(SAID[0]) == 1
    steps = [what for what in told(site, uuid) if what not in {"paused", "dropped"}]  # these come when they come
    assert steps == [
        *("suspending", "suspended", "migrating", "migrated", "reactivating", "running", "stopping", "stopped")
    ]
    assert "dropped" in told(site, uuid)
    (origin,) = (target.directory / "n" / "receipts").glob("*.origin")
    receipt = read_receipt((target.directory / "n" / "receipts" / f"{uuid}.json").read_bytes(), "receipt")
    assert receipt.deployment.origin is not None
    assert receipt.deployment.origin.receipt == sha256(origin.read_bytes()).hexdigest()
    assert read_receipt(origin.read_bytes(), "origin").node != receipt.node


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_the_other_node_refuses_rests_where_it_was_and_a_drain_moves_what_rests(
    make_site: Make, make_member: Member, community: Community
) -> None:
    """Its policy says no: the move fails with the reason, and the machine goes on at home. Accepted, it goes with the drain."""
    site, *nodes = movers(make_site, make_member, community)
    uuid = site.deploy(count=1).machines[0].uuid
    source, target = ends(nodes, site, uuid)
    source.said(uuid, SAID[-1], PATIENCE)
    with site.client() as client:
        client.do(uuid, "suspend")
        site.wait_state(uuid, "suspended")
        accepts = target.policy.read_text()
        target.policy.write_text(accepts.replace('allow = ["*/*"]', 'allow = ["star/other"]'))
        client.do(uuid, "reactivate", elsewhere=True)
        site.wait(lambda _: "migration-failed" in told(site, uuid))
        reasons = [one.reason for one in client.events(0).items if one.what == "migration-failed"]
        assert "images" in reasons[0] or "star/other" in reasons[0], reasons
        found = client.machine(uuid)
        assert (found.state.value, found.desired.value, found.migration) == ("suspended", "suspended", None)
        client.do(uuid, "reactivate")
        site.wait_state(uuid, "running")
        assert (len(source.guests()), target.guests()) == (1, [])

        client.do(uuid, "suspend")
        site.wait_state(uuid, "suspended")
        target.policy.write_text(accepts)
        name = client.node(found.node or "").name
        site.wait(lambda asked: not any(node.problem for node in asked.nodes()))
        client.do_node(name, "drain", "its disks are old", migrate=True)
        site.wait(lambda asked: asked.machine(uuid).node != found.node and asked.machine(uuid).migration is None)
        assert client.machine(uuid).state.value == "suspended"
        assert (source.guests(), target.guests()) == ([], [])
        client.do(uuid, "reactivate")
        site.wait_state(uuid, "running")
        client.do(uuid, "shutdown")
        target.said(uuid, GOODBYE, PATIENCE)
        assert target.console(uuid).count(SAID[0]) == 1
        site.wait_state(uuid, "stopped")

        client.do_node(name, "undrain")
        client.do(uuid, "reactivate", node=name)  # a stopped one goes, too, and boots there from its own disks
        site.wait_state(uuid, "running")
        wait_for(lambda: source.console(uuid).count(SAID[0]) == 2, PATIENCE)
        client.do(uuid, "destroy")
        site.wait_state(uuid, "ended")
        wait_for(lambda: not source.guests() and not target.guests(), PATIENCE)
