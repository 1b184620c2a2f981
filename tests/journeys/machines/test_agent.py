"""A site's agent on a real node, with real guests: what is wanted comes to be, whatever dies in between."""

import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from tests.support.node.boot_sector_guest import GOODBYE, SAID
from tests.support.node.community import Community
from tests.support.node.fake_site import SiteDouble
from tests.support.node.service_process import NodeProcess, wait_for

pytestmark = pytest.mark.guest
MIB = 1 << 20


@pytest.fixture
def site(community: Community) -> Iterator[SiteDouble]:
    """A site whose machines are of star/hello@1.0."""
    with SiteDouble() as site:
        yield site


@pytest.fixture
def member(make_node: Callable[..., NodeProcess], site: SiteDouble) -> NodeProcess:
    """A node that belongs to the site; it joins while it runs."""
    node = make_node(grace="4s", cores=4, memory=1 << 30)
    site.take_in(node.directory / "n")
    return node


def test_machines_come_to_be_and_follow_what_is_wanted(
    member: NodeProcess, site: SiteDouble, community: Community
) -> None:
    image = community.hello.manifest.image_id
    first = site.want(image_id=image, hostname="head", max_cores=2)
    second = site.want(image_id=image)
    assert site.until(first, MachineState.RUNNING).virt == "qemu"
    site.until(second, MachineState.RUNNING)
    wait_for(lambda: site.reports[-1].cached)  # looked at every few seconds
    report = site.reports[-1]
    assert (report.architecture, report.accelerator, report.problem) == ("x86_64", "qemu", "")
    assert (report.capacity.cores, report.capacity.memory, report.capacity.taken_cores) == (4, 1 << 30, 0)
    records = {record.uuid: record for record in member.records()}
    assert set(records) == {first, second}
    assert records[first].hostname == "head"
    member.said(first, SAID[-1])

    site.want(first, desired=DesiredStatus.PAUSED)
    site.until(first, MachineState.PAUSED)
    site.want(first, desired=DesiredStatus.RUNNING, cores=2)
    site.until(first, MachineState.RUNNING)
    wait_for(lambda: (seen := site.seen(first)) and seen.cores == 2)

    site.want(first, desired=DesiredStatus.SUSPENDED)
    site.until(first, MachineState.SUSPENDED)
    assert len(member.guests()) == 1
    site.want(first, desired=DesiredStatus.RUNNING)
    site.until(first, MachineState.RUNNING)

    site.want(first, desired=DesiredStatus.STOPPED)
    site.until(first, MachineState.STOPPED)
    assert GOODBYE in member.console(first)
    site.want(first, desired=DesiredStatus.RUNNING, reboots=1)
    wait_for(lambda: (seen := site.seen(first)) and seen.reboots == 1 and seen.state is MachineState.RUNNING, 60)

    site.want(first, desired=DesiredStatus.ENDED, reason="enough of it")
    assert site.until(first, MachineState.ENDED).reason == "enough of it"
    site.forget(first)
    site.until_gone(first)
    assert [record.uuid for record in member.records()] == [second]


@pytest.mark.slow
def test_the_site_may_be_away_and_its_word_counts_when_it_is_back(
    member: NodeProcess, site: SiteDouble, community: Community
) -> None:
    image = community.hello.manifest.image_id
    kept = site.want(image_id=image)
    expires = (datetime.now(UTC) + timedelta(seconds=15)).replace(microsecond=0)
    short = site.want(image_id=image, expires=expires)
    site.until(kept, MachineState.RUNNING)
    site.until(short, MachineState.RUNNING, MachineState.STOPPED, MachineState.ENDED)
    with member.client() as client:
        assert (client.status().site, client.status().site_problem) == (site.url, None)
        site.stop()
        wait_for(lambda: "does not answer" in (client.status().site_problem or ""), 60)
    wait_for(lambda: member.state(short) is MachineState.ENDED, 60)
    assert member.state(kept) is MachineState.RUNNING
    assert len(member.guests()) == 1
    member.kill()
    late = site.want(image_id=image)
    site.reports.clear()
    member.start()
    assert member.state(kept) is MachineState.RUNNING
    site.start()
    site.until(late, MachineState.RUNNING)
    site.until(short, MachineState.ENDED)
    assert site.until(kept, MachineState.RUNNING).addresses == ()
    assert not site.broken


def test_local_orders_stay_untouched_and_count(
    make_node: Callable[..., NodeProcess], site: SiteDouble, community: Community
) -> None:
    node = make_node(cores=4, memory=1 << 30)
    local = node.deploy(memory=48 * MIB, cores=2).machines[0]
    site.take_in(node.directory / "n", life=timedelta(minutes=20))  # of 80 minutes 60 are over
    uuid = site.want(image_id=community.hello.manifest.image_id)
    site.until(uuid, MachineState.RUNNING)
    wait_for(lambda: site.renewed == 1)
    capacity = site.reports[-1].capacity
    assert (capacity.taken_cores, capacity.taken_memory) == (2, 48 * MIB)
    assert node.state(local.uuid) is MachineState.RUNNING
    site.want(uuid, desired=DesiredStatus.ENDED)
    site.until(uuid, MachineState.ENDED)
    with node.client() as client:
        assert client.machine(local.uuid).site == ""
        client.destroy(local.uuid)


def test_what_nobody_vouches_for_does_not_run_for_a_site_either(
    member: NodeProcess, site: SiteDouble, community: Community
) -> None:
    member.policy.write_text(member.policy.read_text().replace("threshold = 1", "threshold = 2"))
    uuid = site.want(image_id=community.hello.manifest.image_id)
    assert "1 of 2 endorsers" in site.until(uuid, MachineState.FAILED).reason
    assert member.guests() == []


def test_a_node_that_can_start_nothing_says_so(member: NodeProcess, site: SiteDouble) -> None:
    site.want(desired=DesiredStatus.STOPPED)
    wait_for(lambda: site.reports, 60)
    assert site.reports[-1].problem == ""
    member.policy.unlink()
    wait_for(lambda: "acceptance policy not found" in site.reports[-1].problem, 60)


def emulators(node: NodeProcess) -> Counter[str]:
    """Of each machine, seen from outside."""
    found: Counter[str] = Counter()
    for pid in node.guests():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if (name := re.search(rb"-uuid\0([0-9a-f-]{36})\0", line)) is not None:
            found[name[1].decode()] += 1
    return found


RUNS = frozenset({MachineState.RUNNING, MachineState.PAUSED})


def storm(node: NodeProcess, site: SiteDouble, image: str, kills: int, rng: random.Random) -> None:
    """Want this and that, kill the service at any instant, and look from outside at what is there."""
    for _ in range(kills):
        live = [uuid for uuid, one in site.machines.items() if one.desired is not DesiredStatus.ENDED]
        if len(live) < 4:
            site.want(
                image_id=image,
                desired=rng.choice([DesiredStatus.RUNNING, DesiredStatus.RUNNING, DesiredStatus.SUSPENDED]),
            )
        else:
            site.want(rng.choice(live), desired=rng.choice(list(DesiredStatus)))
        for uuid, one in list(site.machines.items()):
            if one.desired is DesiredStatus.ENDED and site.reports and site.seen(uuid) is None:
                site.forget(uuid)
        time.sleep(rng.uniform(0, 1.5))
        node.kill()
        assert max(emulators(node).values(), default=0) <= 1, "two of one machine"
        node.start()
    for uuid, one in list(site.machines.items()):
        if one.desired in {DesiredStatus.PAUSED, DesiredStatus.SUSPENDED} and rng.random() < 0.5:
            site.want(uuid, desired=DesiredStatus.RUNNING)
    settle(site)
    node.kill()
    seen = {one.uuid: one for one in site.reports[-1].machines if one.state is not MachineState.PENDING}
    running = {uuid for uuid, one in seen.items() if one.state in RUNS}
    assert emulators(node) == Counter(dict.fromkeys(running, 1))
    assert {path.name for path in node.machines.iterdir()} == set(seen)
    with sqlite3.connect(f"file:{node.directory}/n/cache/ledger.db?mode=ro", uri=True) as ledger:
        held = {row[0] for row in ledger.execute("SELECT DISTINCT holder FROM leases")}
    assert held == {f"machine:{uuid}" for uuid, one in seen.items() if not one.state.final}
    node.start()  # by reopening: libvirt knows the same
    settle(site)
    assert emulators(node) == Counter(dict.fromkeys(running, 1))


def settle(site: SiteDouble) -> None:
    """Wait until a report has all machines as they should be."""
    site.reports.clear()
    until = time.monotonic() + 240
    while wrong := unsettled(site):
        assert time.monotonic() < until, "\n".join(wrong)
        time.sleep(0.1)


def unsettled(site: SiteDouble) -> list[str]:
    """What is not as it should be, by the last report."""
    if not site.reports or site.reports[-1].revision != site.revision:
        return ["there is no report of the present revision"]
    seen = {one.uuid: one for one in site.reports[-1].machines}
    found = []
    for uuid, one in site.machines.items():
        here = seen.get(uuid)
        if here is None:
            right = one.desired is DesiredStatus.ENDED
        else:  # what should be stopped before it was made is made when it should run
            right = here.state.value == one.desired.value or (
                one.desired is DesiredStatus.STOPPED and here.state is MachineState.PENDING
            )
        if not right:
            found.append(f"{uuid} should be {one.desired.value} and is {here.state.value if here else 'gone'}: {here}")
    return found


@pytest.mark.slow
def test_kills_at_any_instant_double_and_forget_nothing(
    member: NodeProcess, site: SiteDouble, community: Community
) -> None:
    storm(member, site, community.hello.manifest.image_id, 5, random.Random(5))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_kills_double_and_forget_nothing(member: NodeProcess, site: SiteDouble, community: Community) -> None:
    storm(member, site, community.hello.manifest.image_id, 100, random.Random(100))
