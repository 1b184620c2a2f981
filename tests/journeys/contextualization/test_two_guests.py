"""Two real guests, each with its seed and nothing else, find each other through the broker and say that they are ready."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deployer.guest.context_agent import seed_extras
from deployer.guest.nocloud_seed import build_seed, instance_id
from deployer.site.db.events import list_events
from deployer.site.db.machines import get_machine
from deployer.site.lifecycle.verb_rules import Verb, apply_verb
from deployer.site.model.records import SiteMachine
from deployer.site.store.changes import change_machine
from tests.deployer.guest.test_nocloud_seed import public_key
from tests.support.site.busybox_guests import Emulated, initrd
from tests.support.site.context_broker import World, site

SCRIPTS = {
    "etc/partita/context.d/20-data": """\
#!/bin/sh
case $PARTITA_ROLE in
  head) echo "the batch key" > /www/mark; httpd -p 8080 -h /www; "$PARTITA_CONTEXT" put batch.key /www/mark ;;
  worker) echo "guest: data: $(cat "$PARTITA_DATA/star-head-1/batch.key")" ;;
esac
""",
    "etc/partita/context.d/40-finalize": """\
#!/bin/sh
[ "$PARTITA_ROLE" = head ] || echo "guest: head says: $(wget -q -O - http://star-head-1:8080/mark)"
""",
}

USER_DATA = """\
#!/bin/sh
ip link set eth1 up
ip addr add {address}/24 dev eth1
echo '{key}' > /etc/ssh/ssh_host_ed25519_key.pub
"""

KEYS = {"star-head-1": public_key(comment="root@head"), "star-worker-1": public_key(comment="root@worker")}
ADDRESSES = {"star-head-1": "10.5.0.1", "star-worker-1": "10.5.0.2"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with site(tmp_path) as (found, _):
        yield found


def seed_of(world: World, machine: SiteMachine) -> bytes:
    """What its node would put into the guest."""
    port = world.url.rpartition(":")[2]
    seen = world.context(machine).model_copy(update={"url": f"http://10.0.2.2:{port}"})
    extras, vendor_data = seed_extras(seen, machine.uuid)
    user_data = USER_DATA.format(address=ADDRESSES[machine.hostname], key=KEYS[machine.hostname])
    return build_seed(
        instance_id(machine.uuid),
        machine.hostname,
        user_data.encode(),
        vendor_data=vendor_data,
        extras=extras,
    )


def test_two_guests_find_each_other_and_say_that_they_are_ready(world: World, tmp_path: Path) -> None:
    cluster = world.cluster().uuid
    (head,) = world.machines(1, cluster=cluster, role="head", hostname="star-head")
    (worker,) = world.machines(1, cluster=cluster, role="worker", hostname="star-worker")
    for machine in (head, worker):
        world.observed(machine, ADDRESSES[machine.hostname])  # as a hypervisor that gave it would
    root = initrd(tmp_path, SCRIPTS)
    with ExitStack() as ending:
        guests = []
        for machine in (head, worker):
            guest = Emulated(
                tmp_path, machine.hostname, root, seed_of(world, machine), tmp_path / "cable", first=machine is head
            )
            ending.callback(guest.end)
            if machine is head:
                guest.wait_for_cable()
            guests.append(guest)
        for guest in guests:
            said = guest.wait("guest: done")
            assert "guest: agent ended with 0" in said
    said = guests[1].said()
    assert "guest: called star-worker-1" in said
    assert "guest: hosts: 10.5.0.1 star-head-1" in said
    assert "guest: data: the batch key" in said
    assert "guest: head says: the batch key" in said  # over the cable, by the name from /etc/hosts
    assert world.store.read(get_machine, head.uuid).ready == world.store.read(get_machine, worker.uuid).ready == "ready"
    (line,) = world.broker.directory.known_hosts(head.deployment)
    assert line == f"star-head-1,10.5.0.1 {' '.join(KEYS['star-head-1'].split(' ')[:2])}"
    shown = {event.what for event in world.store.read(list_events)}
    assert "alarm" not in shown
    secrets = [world.context(machine).secret for machine in (head, worker)]
    logs = [path.read_text(errors="replace") for path in tmp_path.glob("*.log")]
    assert len(logs) == 2
    assert [secret for secret in secrets for log in logs if secret in log] == []


HOOK = """\
#!/bin/sh
for host in $PARTITA_JOINED; do
  echo "guest: told of $host: $(cat "$PARTITA_DATA/$host/slots") at $(grep " $host" /etc/hosts)" >/dev/ttyS0
done
[ -z "$PARTITA_LEFT" ] || echo "guest: told that $PARTITA_LEFT left" >/dev/ttyS0
"""

SLOTS = """\
#!/bin/sh
[ "$PARTITA_ROLE" = head ] || echo 8 | "$PARTITA_CONTEXT" put slots
"""

WATCHING = {
    "name": "star",
    "roles": {
        "head": {"image": "star/head@1.0", "provides": ["batch"], "watches": ["work"]},
        "worker": {"image": "star/worker@1.0", "requires": ["batch"], "provides": ["work"]},
    },
}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_head_that_is_ready_is_told_of_a_worker_that_is_scaled_up(world: World, tmp_path: Path) -> None:
    """The head is ready for long when its cluster is scaled; its own script hears of the worker, and later of its end."""
    cluster = world.cluster(WATCHING).uuid
    (head,) = world.machines(1, cluster=cluster, role="head", hostname="star-head")
    world.observed(head, ADDRESSES[head.hostname])
    root = initrd(tmp_path, {"etc/partita/context.d/20-data": SLOTS, "etc/partita/peers.d/10-nodes": HOOK})
    with ExitStack() as ending:
        first = Emulated(tmp_path, head.hostname, root, seed_of(world, head), tmp_path / "cable", first=True)
        ending.callback(first.end)
        first.wait("guest: done")
        assert world.store.read(get_machine, head.uuid).ready == "ready"
        (worker,) = world.machines(1, cluster=cluster, role="worker", hostname="star-worker")
        world.observed(worker, ADDRESSES[worker.hostname])
        second = Emulated(tmp_path, worker.hostname, root, seed_of(world, worker), tmp_path / "cable", first=False)
        ending.callback(second.end)
        second.wait("guest: agent ended with 0")
        first.wait("guest: told of star-worker-1: 8 at 10.5.0.2 star-worker-1")
        world.store.write(
            change_machine, worker.uuid, lambda one: apply_verb(one, Verb.DESTROY, "scaled down", world.store.now())
        )
        world.bell.notify()
        first.wait("guest: told that star-worker-1 left")
        session = first.said()
    assert [context for context in (world.context(head).secret,) if context in session] == []
    assert "alarm" not in {event.what for event in world.store.read(list_events)}
