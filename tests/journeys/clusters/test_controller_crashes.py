"""Keepers of clusters that are killed at any step, run beside each other, and cost little while nothing happens."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from deployer.site.clusters.controller import ClusterController
from deployer.site.clusters.planner import ADMITTED_WITHIN
from deployer.site.db.clusters import active_clusters
from deployer.site.db.engine import SiteDatabase
from deployer.site.model.cluster import ClusterPhase, ClusterState
from deployer.site.scheduling.proposal import ClusterMembership
from deployer.site.store.changes import add_cluster
from tests.support.site.cluster_site import Place, sqlite, star
from tests.support.site.values import ALICE, GIB, NOW, world


def test_an_admission_that_was_cut_off_is_undone(place: Place) -> None:
    """A service that ended while it took room: what it had taken is given back."""
    document = star()
    state = ClusterState(
        phase=ClusterPhase.ADMITTING, changed=NOW, expires=NOW + timedelta(hours=1), counts={"head": 1, "worker": 2}
    )
    kept = place.world.store.write(add_cluster, ALICE, document, state)
    request = document.roles["worker"].request("star/worker", 3600, ("star-worker-1", "star-worker-2"), whole=True)
    place.admit(request, ALICE, "k", ClusterMembership(kept.uuid, "worker", held=True))
    place.keeper.look(NOW)
    assert len(place.living()) == 2
    place.world.clock.at = NOW + ADMITTED_WITHIN
    place.keeper.look(place.world.clock())
    assert place.living() == {}
    assert place.told() == []
    assert place.keeper.get(kept.uuid).state.phase is ClusterPhase.FAILED


class Cut(BaseException):
    """The service is killed."""


@sqlite
@pytest.mark.parametrize(
    "count", [0, 1, 2, *(pytest.param(number, marks=pytest.mark.slow) for number in (3, 4, 5, 6, 8, 99))]
)
def test_a_service_killed_at_any_step_leaves_nothing_undone(place: Place, count: int) -> None:
    """After so many steps, in each of four situations: the next service takes up where it was."""
    left, cut = [0], list[int]()

    class Killed(ClusterController):
        def _take(self, uuid: str, step: Any, now: Any) -> None:
            if not left[0]:
                raise Cut
            left[0] -= 1
            super()._take(uuid, step, now)

    def dying(act: Callable[[ClusterController], object]) -> None:
        left[0] = count
        try:
            act(place.another(Killed))
        except Cut:
            cut.append(count)

    made = place.create()
    dying(place.settle)
    place.settle()
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.READY
    place.broken.add("star-worker-1")
    place.obey()
    place.broken.clear()
    dying(place.settle)
    dying(lambda keeper: keeper.scale(made.uuid, "worker", 1, ""))
    place.settle()
    place.settle()
    assert sorted(place.living()) == ["star-head-1", "star-worker-1"]
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.READY
    dying(lambda keeper: keeper.end(made.uuid, "done"))
    place.settle()
    assert place.living() == {}
    assert place.keeper.get(made.uuid).state.finished
    assert (len(cut) >= 3) == (count == 0)
    assert not cut or count < 99


def test_two_services_beside_each_other_do_no_harm(place: Place) -> None:
    """Both look at the same moment, again and again: no member is there twice."""
    made = place.create()
    faults = list[BaseException]()

    def work() -> None:
        keeper = place.another()
        try:
            for _ in range(6):
                keeper.look(place.world.clock())
                keeper._looked = None
        except BaseException as exc:  # noqa: BLE001 - told below
            faults.append(exc)

    for _ in range(4):
        place.obey()
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        place.broken = {"star-worker-1"} if not place.broken else set()
        place.world.clock.advance(seconds=6)
    place.broken.clear()
    place.settle()
    assert faults == []
    assert sorted(place.living()) == ["star-head-1", "star-worker-1", "star-worker-2"]
    assert place.keeper.get(made.uuid).state.phase is ClusterPhase.READY


@sqlite
def test_a_cluster_that_rests_costs_one_question(place: Place) -> None:
    """While nothing happens, one look each five seconds; in between only the newest event is asked for."""
    place.create()
    place.settle()
    asked = list[str]()
    read = place.world.store.read

    def counting(query: Any, *args: Any, **values: Any) -> Any:
        if query is active_clusters:
            asked.append("clusters")
        return read(query, *args, **values)

    place.world.store.read = counting  # type: ignore[method-assign]
    now = place.world.clock()
    assert [place.keeper.look(now + timedelta(seconds=second)) for second in range(1, 5)] == [0] * 4
    assert asked == []
    place.keeper.look(now + timedelta(seconds=5))
    assert asked == ["clusters"]


@sqlite
def test_many_members_start_and_end_in_few_transactions(database: SiteDatabase) -> None:
    """Two hundred are released in one, and ended in one."""
    made = world(database)
    place = Place(made, made.join("big", cores=300, memory=600 * GIB, disk=6000 * GIB))
    cluster = place.create(star(200))
    place.obey()
    written = list[str]()
    writing = database.writing

    def counting() -> Any:
        written.append("a transaction")
        return writing()

    database.writing = counting  # type: ignore[method-assign]
    place.keeper.look(NOW)
    assert len(place.told()) == 201
    assert len(written) <= 2  # how far it is, and all that start
    place.keeper.end(cluster.uuid, "done")
    assert len(written) <= 2 + 2 + len(cluster.document.roles)
