"""From a site's order to its guest's first words: the secret travels site, node, seed, broker, and stays nowhere else."""

import io
import socket
from collections.abc import Callable
from pathlib import Path

import pycdlib
import pytest

from deployer.guest.context_agent import AGENT, PARAMETERS
from deployer.node.machines.construction import SEED
from deployer.protocol.desired_state import BrokerAccess
from tests.deployer.guest.test_nocloud_seed import public_key
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, policy
from tests.support.site.context_broker import Guest
from tests.support.site.service_process import SiteProcess

KEY = public_key(comment="root@guest")
BLOB = " ".join(KEY.split(" ")[:2])


def free_port() -> int:
    """A port that was free just now: the broker's has to be the same after a restart."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def seed_files(path: Path) -> dict[str, bytes]:
    """What a guest finds on the disk labelled cidata."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(path.read_bytes()))
    found = {}
    for child in iso.list_children(joliet_path="/"):
        if child.is_file():
            name = child.file_identifier().decode("utf-16-be")
            out = io.BytesIO()
            iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
            found[name] = out.getvalue()
    iso.close()
    return found


def holding(place: Path, *texts: str) -> list[str]:
    """The files in a directory that hold one of these texts."""
    return sorted(
        str(path.relative_to(place))
        for path in place.rglob("*")
        if path.is_file() and any(text.encode() in path.read_bytes() for text in texts)
    )


@pytest.mark.guest
@pytest.mark.timeout(240)
def test_a_machines_seed_leads_it_to_the_broker_and_its_host_keys_to_its_owner(
    make_site: Callable[..., SiteProcess],
    make_member: Callable[..., NodeProcess],
    community: Community,
) -> None:
    site = make_site(community.service.url, policy(community.star.anchor()), broker_listen=f"127.0.0.1:{free_port()}")
    node = make_member(site, "worker")
    ordered = site.deploy(hostname="lone")
    (machine,) = ordered.machines
    site.wait_state(machine.uuid, "running")

    files = seed_files(node.machines / machine.uuid / SEED)
    said = dict(line.split("=", 1) for line in files[PARAMETERS].decode().splitlines())
    assert said["machine"] == machine.uuid
    assert files["vendor-data"] == files[AGENT]
    guest = Guest(said["url"], machine, BrokerAccess(url=said["url"], secret=said["secret"])).enter()
    assert guest.said("/identity")["hostname"] == "lone"
    assert guest.publish("ssh-host-keys", KEY).status == 204
    assert guest.publish("address", "10.0.2.15").status == 204
    assert guest.ask("POST", "/ready").status == 204
    with site.client() as client:
        assert client.known_hosts(ordered.deployment.uuid) == f"lone,10.0.2.15 {BLOB}\n"
    assert site.machine(machine.uuid).ready == "ready"
    assert "context" not in site.machine(machine.uuid).model_dump()  # it holds the secret

    site.kill()  # the broker's memory is the site's
    site.start()
    assert guest.ask("GET", "/identity").status == 200
    assert guest.knock().status == 403
    site.wait(lambda client: any(one.what == "alarm" for one in client.events(0).items))
    with site.client() as client:
        assert client.known_hosts(ordered.deployment.uuid) == ""

    hidden = (said["secret"], guest.session, guest.session.partition(".")[2])
    assert holding(site.place, *hidden) == []
    assert holding(node.directory, *hidden) == [str((node.machines / machine.uuid / SEED).relative_to(node.directory))]
