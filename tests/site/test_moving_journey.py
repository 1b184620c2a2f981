"""A machine that was suspended on one node goes on on another: real nodes, a real site, a guest whose memory says so."""

import socket
from collections.abc import Callable, Sequence
from hashlib import sha256

import pytest

from deployer.receipt import read_receipt
from tests.deployer.conftest import Community
from tests.deployer.guests import GOODBYE, SAID
from tests.deployer.nodes import NodeProcess, policy
from tests.site.worlds import PATIENCE, SiteProcess

Make = Callable[..., SiteProcess]
Member = Callable[..., NodeProcess]


def free_port() -> int:
    """One that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return int(trial.getsockname()[1])


def movers(make_site: Make, make_member: Member, community: Community) -> tuple[SiteProcess, NodeProcess, NodeProcess]:
    """A site, and two nodes that give machines away."""
    site = make_site(community.service.url, policy(community.star.anchor()), overcommit_cores=8.0)
    one, two = (make_member(site, name, moving_listen=f"127.0.0.1:{free_port()}") for name in ("one", "two"))
    site.wait(lambda client: sum(node.movable is not None for node in client.nodes()) == 2)
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
    site.wait(lambda client: client.machine(uuid).move is None)
    assert not (source.machines / uuid).exists()
    with site.client() as client:
        client.do(uuid, "shutdown")  # the loop that hears the power button is in its memory, not on its disk
    target.said(uuid, GOODBYE, PATIENCE)
    site.wait_state(uuid, "stopped")
    assert target.console(uuid).count(SAID[0]) == 1
    steps = [what for what in told(site, uuid) if what not in {"paused", "dropped"}]  # these come when they come
    assert steps == [*("suspending", "suspended", "moving", "moved", "reactivating", "running", "stopping", "stopped")]
    assert "dropped" in told(site, uuid)
    (origin,) = (target.directory / "n" / "receipts").glob("*.origin")
    receipt = read_receipt((target.directory / "n" / "receipts" / f"{uuid}.json").read_bytes(), "receipt")
    assert receipt.deployment.origin is not None
    assert receipt.deployment.origin.receipt == sha256(origin.read_bytes()).hexdigest()
    assert read_receipt(origin.read_bytes(), "origin").node != receipt.node
