"""Clusters on what a site really remembers: admitted whole, started in order, mended, scaled, ended; killed at any step."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from deployer.errors import Conflict, MachineConflict, MachineNotFound, Misused, NoRoom, Refused
from deployer.machine import State
from deployer.site.admitting import ALONE, Belonging
from deployer.site.cluster import Cluster, ClusterDocument, ClusterState, Phase
from deployer.site.cluster_keeping import ClusterKeeper
from deployer.site.clustering import ADMITTED_WITHIN, DRAINED_WITHIN
from deployer.site.database import SiteDatabase
from deployer.site.desired import Want
from deployer.site.placement import place
from deployer.site.principal import Principal
from deployer.site.records import Filter, SiteMachine
from deployer.site.request import DeploymentRequest
from deployer.site.wire import Ordered
from signer.documents import canonical, validate
from tests.site.values import ALICE, BOB, GIB, NOW, World, observed, proposal, world


def star(workers: int = 2, **values: Any) -> ClusterDocument:
    """A head, and workers that wait for it; ready when they run."""
    roles = {
        "worker": {
            "image": "star/worker",
            "count": workers,
            "requires": ["batch"],
            "ready": "running",
            "memory": "1GiB",
        },
        "head": {"image": "star/head@1.0", "provides": ["batch"], "ready": "running", "memory": "1GiB"},
    }
    for name, more in values.pop("roles", {}).items():
        roles[name] |= more
    return validate(ClusterDocument, {"name": "star", "roles": roles} | values, "cluster")


@dataclass
class Place:
    """A site with one node of four cores that does what it is told when it is asked to, and a keeper of clusters.

    Attributes:
        broken: host names whose machines fail instead of running.
        refuses: what admission says now, if it does not admit.
    """

    world: World
    node: str
    broken: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    refuses: Exception | None = None
    keeper: ClusterKeeper = field(init=False)

    def __post_init__(self) -> None:
        self.keeper = self.another()

    def another(self, kind: type[ClusterKeeper] = ClusterKeeper) -> ClusterKeeper:
        """A keeper as the next service would have it."""
        return kind(self.world.store, self.admit, 3600, broker=lambda: False, now=self.world.store.now)

    def admit(
        self, request: DeploymentRequest, who: Principal, key: str | None = None, part: Belonging = ALONE
    ) -> Ordered:
        """Admission without policy: quotas and room are the store's own."""
        if self.refuses is not None:
            raise self.refuses
        wanted = proposal(
            count=request.count,
            memory=request.memory or GIB,
            lifetime=request.lifetime or 3600,
            whole=request.wishes.whole,
            cluster=part.cluster,
            role=part.role,
            held=part.held,
            hostnames=request.hostnames,
        )
        deployment, machines, new = self.world.store.admit(who, key, wanted, place)
        return Ordered(deployment=deployment, machines=machines, new=new)

    def obey(self) -> None:
        """The node does at once all that it is told, and reports it."""
        seen = []
        for one in self.world.store.desired(self.node).machines:
            known = self.world.store.machine(one.uuid)
            if one.want is Want.ENDED:
                continue
            if one.hostname in self.broken:
                seen.append(observed(one.uuid, State.FAILED, reason="the emulator ended"))
            elif one.hostname in self.deaf and known.state is State.RUNNING:
                seen.append(observed(one.uuid, State.RUNNING))
            else:
                state = {Want.RUNNING: State.RUNNING, Want.STOPPED: State.STOPPED}[one.want]
                seen.append(observed(one.uuid, state, changed=self.world.clock()))
        self.world.report(self.node, *seen)

    def settle(self, keeper: ClusterKeeper | None = None) -> None:
        """A minute goes by, in looks of six seconds."""
        for _ in range(10):
            self.obey()
            self.world.clock.advance(seconds=6)
            (keeper or self.keeper).look(self.world.clock())

    def create(self, document: ClusterDocument | None = None, who: Principal = ALICE, key: str = "") -> Cluster:
        """A cluster of a head and two workers, or another."""
        return self.keeper.create(document or star(), who, key)[0]

    def living(self) -> dict[str, SiteMachine]:
        """Machines that have not ended, by host name; there are never two of one."""
        found = [one for one in self.world.store.machines(Filter(), 1000)[0] if not one.state.final]
        named = {one.hostname: one for one in found}
        assert len(named) == len(found), "two machines have one host name"
        return named

    def told(self) -> list[str]:
        """The host names that the node knows of."""
        return sorted(one.hostname for one in self.world.store.desired(self.node).machines if one.want is Want.RUNNING)


sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: half the time."""


@pytest.fixture
def site(database: SiteDatabase) -> Place:
    """On SQLite and on PostgreSQL."""
    made = world(database)
    return Place(made, made.join("node"))


def test_members_start_in_order_and_the_cluster_gets_ready(site: Place) -> None:
    """Room for all is taken at once; the node hears of the workers when the head runs."""
    made = site.create()
    assert made.state.phase is Phase.STARTING
    assert made.ends == NOW + timedelta(hours=1)
    assert sorted(site.living()) == ["star-head-1", "star-worker-1", "star-worker-2"]
    assert site.told() == ["star-head-1"]
    site.keeper.look(NOW)
    assert site.told() == ["star-head-1"]
    site.obey()
    site.keeper.look(NOW)
    assert site.told() == ["star-head-1", "star-worker-1", "star-worker-2"]
    site.obey()
    site.keeper.look(NOW)
    found = site.keeper.get(made.uuid)
    assert (found.state.phase, found.state.was_ready) == (Phase.READY, True)
    roles = site.keeper.status(found, site.keeper.members(found.uuid))
    assert {name: (role.ready, role.wanted) for name, role in roles.items()} == {"head": (1, 1), "worker": (2, 2)}
    told = [(one.what, one.reason) for one in site.world.store.events() if one.kind == "cluster"]
    assert [what for what, _ in told] == ["admitted", "ready"]


def test_a_cluster_without_room_is_refused_and_leaves_nothing(site: Place) -> None:
    """The node has four cores, the cluster wants five."""
    with pytest.raises(NoRoom, match="room for"):
        site.create(star(4))
    assert site.living() == {}
    assert site.told() == []
    ((kept, *_), _) = site.world.store.clusters()
    assert not kept.active
    assert Cluster.of(kept).state.phase is Phase.FAILED
    assert site.create(star(3)).state.phase is Phase.STARTING  # the name is free again, and so is the room


@sqlite
def test_a_quorum_starts_where_not_all_have_room(site: Place) -> None:
    """The rest comes as there is room, and the cluster says why it is not there."""
    made = site.create(star(5, start="quorum", roles={"worker": {"quorum": 2}}))
    assert len(site.living()) == 3
    site.settle()
    found = site.keeper.get(made.uuid)
    assert found.state.phase is Phase.DEGRADED
    assert found.state.reason.startswith("worker has 3 of 5 ready (there is room for 0 of 2 machines")
    assert len([one for one in site.world.told() if one == "waiting"]) == 1  # said once, tried every half minute
    site.world.join("second")
    second = next(one.uuid for one in site.world.store.nodes() if one.name == "second")
    site.world.clock.advance(seconds=30)
    site.keeper.look(site.world.clock())
    assert len(site.living()) == 6
    site.node = second
    site.settle()
    assert site.keeper.get(made.uuid).state.phase is Phase.READY


@sqlite
def test_two_quorums_share_the_room(site: Place) -> None:
    """The first role does not take what the second needs."""
    roles = {"worker": {"quorum": 1}, "head": {"quorum": 1, "count": 9}}
    site.create(star(9, start="quorum", roles=roles))
    assert sorted(site.living()) == ["star-head-1", "star-head-2", "star-head-3", "star-worker-1"]


@sqlite
def test_a_failed_member_is_replaced(site: Place) -> None:
    """Under its own name, in its own place, by another machine of the same image."""
    made = site.create()
    site.settle()
    before = site.living()["star-worker-2"]
    site.broken.add("star-worker-2")
    site.obey()
    site.broken.clear()
    site.settle()
    after = site.living()["star-worker-2"]
    assert after.uuid != before.uuid
    assert after.image_id == before.image_id
    assert after.ends <= made.ends
    found = site.keeper.get(made.uuid)
    assert (found.state.phase, found.state.failed) == (Phase.READY, {before.uuid: "the emulator ended"})


@sqlite
def test_a_member_that_always_fails_is_given_up(site: Place) -> None:
    """All or none: before the cluster was ready, all of it ends."""
    site.broken.add("star-worker-1")
    made = site.create()
    site.settle()
    site.settle()
    state = site.keeper.get(made.uuid).state
    assert state.phase is Phase.FAILED
    assert (
        "star-worker-1 failed 4 times and is not replaced any more; the last reason: the emulator ended" in state.reason
    )
    assert site.living() == {}
    assert state.over


def test_a_cluster_is_scaled_up_and_down(site: Place) -> None:
    """Up to three workers, down to one; those that leave are asked to power off first."""
    made = site.create()
    site.settle()
    site.keeper.scale(made.uuid, "worker", 3, "more to do")
    site.settle()
    assert sorted(site.living()) == ["star-head-1", "star-worker-1", "star-worker-2", "star-worker-3"]
    assert site.keeper.get(made.uuid).state.phase is Phase.READY
    site.deaf.add("star-worker-3")
    site.keeper.scale(made.uuid, "worker", 1, "less to do")
    assert {one.hostname: one.want for one in site.living().values()} == {
        "star-head-1": Want.RUNNING,
        "star-worker-1": Want.RUNNING,
        "star-worker-2": Want.STOPPED,
        "star-worker-3": Want.STOPPED,
    }
    site.settle()
    assert sorted(site.living()) == ["star-head-1", "star-worker-1", "star-worker-3"]  # one does not listen
    site.world.clock.advance(seconds=DRAINED_WITHIN.total_seconds())
    site.settle()
    assert sorted(site.living()) == ["star-head-1", "star-worker-1"]
    state = site.keeper.get(made.uuid).state
    assert (state.phase, state.failed, state.draining) == (Phase.READY, {}, {})
    with pytest.raises(Misused, match="has no role 'tail'"):
        site.keeper.scale(made.uuid, "tail", 1, "")


@sqlite
def test_a_member_is_replaced_on_request(site: Place) -> None:
    """By host name or by UUID; what is no member of the cluster is not found."""
    made = site.create()
    site.settle()
    first = site.living()["star-worker-1"]
    site.keeper.replace(made.uuid, "star-worker-1", "it is slow")
    site.settle()
    second = site.living()["star-worker-1"]
    assert second.uuid != first.uuid
    assert site.world.store.machine(first.uuid).want_reason == "replaced: it is slow"
    site.keeper.replace(made.uuid, second.uuid[:8], "it is slow, too")
    site.settle()
    assert site.living()["star-worker-1"].uuid not in {first.uuid, second.uuid}
    assert site.keeper.get(made.uuid).state.phase is Phase.READY
    with pytest.raises(MachineNotFound, match="has no member 'star-worker-9'"):
        site.keeper.replace(made.uuid, "star-worker-9", "")


@sqlite
def test_a_member_that_was_given_up_is_tried_again_on_request(site: Place) -> None:
    """Its failures are forgotten."""
    made = site.create()
    site.settle()
    site.broken.add("star-worker-1")
    site.settle()
    site.settle()
    assert site.keeper.get(made.uuid).state.phase is Phase.FAILED
    assert sorted(site.living()) == ["star-head-1", "star-worker-2"]  # it was of use once: what runs goes on
    site.broken.clear()
    site.keeper.replace(made.uuid, "star-worker-1", "the image is mended")
    site.settle()
    assert site.keeper.get(made.uuid).state.phase is Phase.READY


@sqlite
def test_a_cluster_ends_on_request(site: Place) -> None:
    """All members, held ones too; nothing can be done to it then, and its name is free."""
    made = site.create()
    site.keeper.end(made.uuid, "done")
    site.settle()
    assert site.living() == {}
    state = site.keeper.get(made.uuid).state
    assert (state.phase, state.reason, state.over) == (Phase.ENDED, "done", True)
    assert site.keeper.end(made.uuid, "again").state.reason == "done"
    for act in (
        lambda: site.keeper.scale(made.uuid, "worker", 3, ""),
        lambda: site.keeper.replace(made.uuid, "star-head-1", ""),
    ):
        with pytest.raises(MachineConflict, match="is ended and takes no changes"):
            act()
    assert site.create().uuid != made.uuid


@sqlite
def test_a_cluster_ends_with_its_time(site: Place) -> None:
    """Machines by the site's sweeping, the cluster when the last of them has."""
    made = site.create()
    site.settle()
    site.world.clock.at = made.ends
    site.world.store.look(made.ends, NOW, "wait")
    site.settle()
    state = site.keeper.get(made.uuid).state
    assert (state.phase, state.over) == (Phase.ENDED, True)
    assert site.living() == {}


def test_whoever_asks_twice_gets_one_cluster(site: Place) -> None:
    """By the key; another cluster of that name is refused while the first lives, and for others it is free."""
    made, new = site.keeper.create(star(1), ALICE, "k1")
    again, new_again = site.keeper.create(star(1), ALICE, "k1")
    assert (again.uuid, new, new_again) == (made.uuid, True, False)
    for document, key in ((star(1), ""), (star(1), "k2"), (star(2), "k1")):
        with pytest.raises(Conflict, match="end it first, or choose another name"):
            site.keeper.create(document, ALICE, key)
    assert len(site.living()) == 2
    other, new = site.keeper.create(
        validate(ClusterDocument, star(1).model_dump(mode="json") | {"name": "moon"}, "c"), BOB
    )
    assert new
    assert other.uuid != made.uuid


@sqlite
def test_a_refusal_later_on_is_said_and_tried_again(site: Place) -> None:
    """The policy may have changed: the cluster goes on without the member, and says why."""
    made = site.create()
    site.settle()
    site.broken.add("star-worker-1")
    site.refuses = Refused("the policy refuses star/worker: it was revoked")
    site.settle()
    site.broken.clear()
    state = site.keeper.get(made.uuid).state
    assert state.phase is Phase.DEGRADED
    assert state.reason == "worker has 1 of 2 ready (the policy refuses star/worker: it was revoked)"
    site.refuses = None
    site.settle()
    assert site.keeper.get(made.uuid).state.phase is Phase.READY


@sqlite
def test_roles_that_report_need_a_broker(site: Place) -> None:
    """A site that has none says so, before anything is admitted."""
    with pytest.raises(Misused, match="has no context broker"):
        site.create(star(roles={"head": {"ready": "reported"}}))
    assert site.living() == {}
    assert site.world.store.clusters()[0] == ()


def test_an_admission_that_was_cut_off_is_undone(site: Place) -> None:
    """A service that ended while it took room: what it had taken is given back."""
    document = star()
    state = ClusterState(
        phase=Phase.ADMITTING, changed=NOW, ends=NOW + timedelta(hours=1), counts={"head": 1, "worker": 2}
    )
    kept = site.world.store.add_cluster(ALICE, "star", canonical(document).decode(), canonical(state).decode())
    request = document.roles["worker"].request("star/worker", 3600, ("star-worker-1", "star-worker-2"), whole=True)
    site.admit(request, ALICE, "k", Belonging(kept.uuid, "worker", held=True))
    site.keeper.look(NOW)
    assert len(site.living()) == 2
    site.world.clock.at = NOW + ADMITTED_WITHIN
    site.keeper.look(site.world.clock())
    assert site.living() == {}
    assert site.told() == []
    assert site.keeper.get(kept.uuid).state.phase is Phase.FAILED


class Cut(BaseException):
    """The service is killed."""


@sqlite
@pytest.mark.parametrize(
    "count", [0, 1, 2, *(pytest.param(number, marks=pytest.mark.slow) for number in (3, 4, 5, 6, 8, 99))]
)
def test_a_service_killed_at_any_step_leaves_nothing_undone(site: Place, count: int) -> None:
    """After so many steps, in each of four situations: the next service takes up where it was."""
    left, cut = [0], list[int]()

    class Killed(ClusterKeeper):
        def _take(self, uuid: str, step: Any, now: Any) -> None:
            if not left[0]:
                raise Cut
            left[0] -= 1
            super()._take(uuid, step, now)

    def dying(act: Callable[[ClusterKeeper], object]) -> None:
        left[0] = count
        try:
            act(site.another(Killed))
        except Cut:
            cut.append(count)

    made = site.create()
    dying(site.settle)
    site.settle()
    assert site.keeper.get(made.uuid).state.phase is Phase.READY
    site.broken.add("star-worker-1")
    site.obey()
    site.broken.clear()
    dying(site.settle)
    dying(lambda keeper: keeper.scale(made.uuid, "worker", 1, ""))
    site.settle()
    site.settle()
    assert sorted(site.living()) == ["star-head-1", "star-worker-1"]
    assert site.keeper.get(made.uuid).state.phase is Phase.READY
    dying(lambda keeper: keeper.end(made.uuid, "done"))
    site.settle()
    assert site.living() == {}
    assert site.keeper.get(made.uuid).state.over
    assert (len(cut) >= 3) == (count == 0)
    assert not cut or count < 99


def test_two_services_beside_each_other_do_no_harm(site: Place) -> None:
    """Both look at the same moment, again and again: no member is there twice."""
    made = site.create()
    faults = list[BaseException]()

    def work() -> None:
        keeper = site.another()
        try:
            for _ in range(6):
                keeper.look(site.world.clock())
                keeper._looked = None
        except BaseException as exc:  # noqa: BLE001 - told below
            faults.append(exc)

    for _ in range(4):
        site.obey()
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        site.broken = {"star-worker-1"} if not site.broken else set()
        site.world.clock.advance(seconds=6)
    site.broken.clear()
    site.settle()
    assert faults == []
    assert sorted(site.living()) == ["star-head-1", "star-worker-1", "star-worker-2"]
    assert site.keeper.get(made.uuid).state.phase is Phase.READY


@sqlite
def test_a_cluster_that_rests_costs_one_question(site: Place) -> None:
    """While nothing happens, one look each five seconds; in between only the newest event is asked for."""
    site.create()
    site.settle()
    asked = list[str]()
    clusters = site.world.store.clusters

    def counting(*args: Any, **values: Any) -> Any:
        asked.append("clusters")
        return clusters(*args, **values)

    site.world.store.clusters = counting  # type: ignore[method-assign]
    now = site.world.clock()
    assert [site.keeper.look(now + timedelta(seconds=second)) for second in range(1, 5)] == [0] * 4
    assert asked == []
    site.keeper.look(now + timedelta(seconds=5))
    assert asked == ["clusters"]


@sqlite
def test_many_members_start_and_end_in_few_transactions(database: SiteDatabase) -> None:
    """Two hundred are released in one, and ended in one."""
    made = world(database)
    site = Place(made, made.join("big", cores=300, memory=600 * GIB, disk=6000 * GIB))
    cluster = site.create(star(200))
    site.obey()
    written = list[str]()
    writing = database.writing

    def counting() -> Any:
        written.append("a transaction")
        return writing()

    database.writing = counting  # type: ignore[method-assign]
    site.keeper.look(NOW)
    assert len(site.told()) == 201
    assert len(written) <= 2  # how far it is, and all that start
    site.keeper.end(cluster.uuid, "done")
    assert len(written) <= 2 + 2 + len(cluster.document.roles)
