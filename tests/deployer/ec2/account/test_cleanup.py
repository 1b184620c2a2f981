"""What is left over at EC2: the plan never takes what something uses, and what is removed is gone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.ec2.account.cleanup import (
    OVERDUE,
    CloudResource,
    ResourceKind,
    list_resources,
    plan_cleanup,
    remove_resources,
)
from deployer.ec2.aws.tags import END_TAG, Owner, end_tag_value
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.site_with_pool import Ec2Site, Images, account

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OURS, THEIRS = Owner("site-a", "burst"), Owner("site-b", "burst")
WEEK = timedelta(days=7)


def test_what_nothing_uses_goes_users_first_and_the_oldest_first() -> None:
    old = NOW - timedelta(days=30)
    ended = OURS.tags | {END_TAG: end_tag_value(NOW - OVERDUE)}
    things = [
        CloudResource(ResourceKind.SNAPSHOT, "snap-parent", old - timedelta(days=2), tags=OURS.tags),
        CloudResource(ResourceKind.SNAPSHOT, "snap-child", old, uses=frozenset({"snap-parent"}), tags=OURS.tags),
        CloudResource(ResourceKind.SNAPSHOT, "snap-older", old - timedelta(days=1), tags=OURS.tags),
        CloudResource(ResourceKind.IMAGE, "ami-1", old, uses=frozenset({"snap-child"}), tags=OURS.tags),
        CloudResource(ResourceKind.VOLUME, "vol-1", old, tags=OURS.tags),
        CloudResource(ResourceKind.INSTANCE, "i-1", old, active=True, uses=frozenset({"ami-1"}), tags=ended),
    ]
    removed = [removal.thing.id for removal in plan_cleanup(things, OURS, NOW, WEEK)]
    assert removed == ["i-1", "vol-1", "ami-1", "snap-older", "snap-child", "snap-parent"]


@pytest.mark.parametrize(
    ("what", "things"),
    [
        ("an AMI that another site's machine runs", [
            CloudResource(ResourceKind.INSTANCE, "i-1", NOW - 9 * WEEK, active=True, uses=frozenset({"ami-1"}), tags=THEIRS.tags),
            CloudResource(ResourceKind.IMAGE, "ami-1", NOW - 9 * WEEK, uses=frozenset({"snap-1"}), tags=OURS.tags),
            CloudResource(ResourceKind.SNAPSHOT, "snap-1", NOW - 9 * WEEK, tags=OURS.tags),
        ]),
        ("a snapshot that an AMI without our tags is made of", [
            CloudResource(ResourceKind.IMAGE, "ami-1", NOW - 9 * WEEK, uses=frozenset({"snap-1"})),
            CloudResource(ResourceKind.SNAPSHOT, "snap-1", NOW - 9 * WEEK, tags=OURS.tags),
        ]),
        ("a snapshot that another site's snapshot builds on", [
            CloudResource(ResourceKind.SNAPSHOT, "snap-1", NOW - 9 * WEEK, tags=OURS.tags),
            CloudResource(ResourceKind.SNAPSHOT, "snap-2", NOW - 9 * WEEK, uses=frozenset({"snap-1"}), tags=THEIRS.tags),
        ]),
        ("an image that was used yesterday, with all that it needs", [
            CloudResource(ResourceKind.IMAGE, "ami-1", NOW - timedelta(days=1), uses=frozenset({"snap-2"}), tags=OURS.tags),
            CloudResource(ResourceKind.SNAPSHOT, "snap-2", NOW - 9 * WEEK, uses=frozenset({"snap-1"}), tags=OURS.tags),
            CloudResource(ResourceKind.SNAPSHOT, "snap-1", NOW - 9 * WEEK, tags=OURS.tags),
        ]),
        ("a machine whose time is just over", [
            CloudResource(ResourceKind.INSTANCE, "i-1", NOW - 9 * WEEK, active=True, tags=OURS.tags | {END_TAG: end_tag_value(NOW)}),
        ]),
        ("a machine without an end", [CloudResource(ResourceKind.INSTANCE, "i-1", NOW - 9 * WEEK, active=True, tags=OURS.tags)]),
        ("a machine of another pool of this site", [
            CloudResource(ResourceKind.INSTANCE, "i-1", NOW - 9 * WEEK, active=True, tags=Owner("site-a", "other").tags | {END_TAG: end_tag_value(NOW - WEEK)}),
        ]),
        ("an upload of yesterday", [CloudResource(ResourceKind.SNAPSHOT, "snap-1", NOW - timedelta(days=1), active=True, tags=OURS.tags)]),
        ("a volume that is attached", [CloudResource(ResourceKind.VOLUME, "vol-1", NOW - 9 * WEEK, active=True, tags=OURS.tags)]),
    ],
)  # fmt: skip
def test_what_stays(what: str, things: list[CloudResource]) -> None:
    assert plan_cleanup(things, OURS, NOW, WEEK) == ()


@st.composite
def accounts(draw: st.DrawFn) -> list[CloudResource]:
    """An account as it may come to be: each thing uses some of those of the kinds below, whoever made them."""
    things: list[CloudResource] = []
    for kind, below in (
        (ResourceKind.SNAPSHOT, ResourceKind.SNAPSHOT),
        (ResourceKind.IMAGE, ResourceKind.SNAPSHOT),
        (ResourceKind.VOLUME, None),
        (ResourceKind.INSTANCE, ResourceKind.IMAGE),
    ):
        for number in range(draw(st.integers(0, 5))):
            there = [thing.id for thing in things if thing.kind is below]
            uses = draw(st.sets(st.sampled_from(there), max_size=2)) if there else set()
            tags = draw(st.sampled_from([OURS.tags, THEIRS.tags, {}, OURS.tags | {END_TAG: end_tag_value(NOW - WEEK)}]))
            since = NOW - timedelta(days=draw(st.integers(0, 60)))
            things.append(
                CloudResource(kind, f"{kind.value}-{number}", since, draw(st.booleans()), frozenset(uses), tags)
            )
    return things


@settings(max_examples=100, deadline=None)
@given(accounts(), st.integers(0, 20))
def test_nothing_that_something_uses_is_ever_removed(things: list[CloudResource], days: int) -> None:
    older_than = timedelta(days=days)
    removals = plan_cleanup(things, OURS, NOW, older_than)
    gone = [removal.thing.id for removal in removals]
    assert len(set(gone)) == len(gone)
    for removal in removals:
        assert OURS.owns(removal.thing.tags)
        if removal.thing.kind is not ResourceKind.INSTANCE:
            assert removal.thing.since <= NOW - older_than
    # At every moment on the way, and at the end, what is there has all that it needs.
    left = {thing.id: thing for thing in things}
    for name in gone:
        removed = left.pop(name)
        if removed.kind is ResourceKind.INSTANCE:
            continue
        assert not [
            one for one in left.values() if name in one.uses and (one.active or one.kind is not ResourceKind.INSTANCE)
        ]
    kinds = [list(ResourceKind).index(removal.thing.kind) for removal in removals]
    assert kinds == sorted(kinds)
    assert plan_cleanup(list(left.values()), OURS, NOW, older_than) == ()


@pytest.mark.slow
def test_what_is_left_of_two_sites_is_cleaned_by_each_for_itself(
    images: Images, world: AwsWorld, profile: str, tmp_path: Path
) -> None:
    shared = account(world, profile)
    one, two = (Ec2Site(images, world, tmp_path / name, shared) for name in ("one", "two"))
    with one.open() as first, two.open() as second:
        mine, theirs = one.want(images.hello), two.want(images.hello)
        first.settle()
        second.settle()
        assert (first.state(mine), second.state(theirs)) == (MachineState.RUNNING, MachineState.RUNNING)
        # The second site found the first one's snapshots, read them back, and registered an AMI of its own.
        assert first.instance(mine).ami != second.instance(theirs).ami
        one.change(mine, desired=DesiredStatus.ENDED)
        first.settle()
        assert [instance.machine for instance in second.live()] == [theirs]
        told: list[tuple[str, str]] = []
        aws, books, ledger = first.opened.aws, first.opened.books, first.opened.ledger
        day = datetime.now(UTC) + timedelta(days=1)
        removals = plan_cleanup(list_resources(aws, first.opened.owner, books), first.opened.owner, day, timedelta(0))
        # Its AMI goes; its snapshots stay, since the other site's AMI is made of them.
        assert [removal.thing.kind for removal in removals] == [ResourceKind.IMAGE]
        count = remove_resources(
            removals, aws, books, ledger, lambda removal, became: told.append((removal.thing.id, became))
        )
        assert (count, [became for _, became in told]) == (1, ["removed"])
        assert books.images() == []
        second.settle()
        assert second.state(theirs) is MachineState.RUNNING
        two.change(theirs, desired=DesiredStatus.ENDED)
        second.settle()
        owner = second.opened.owner
        remove_resources(
            plan_cleanup(list_resources(aws, owner, second.opened.books), owner, day, timedelta(0)),
            aws,
            second.opened.books,
            second.opened.ledger,
            lambda *_: None,
        )
        # Now nobody uses the first one's snapshots any more.
        removals = plan_cleanup(list_resources(aws, first.opened.owner, books), first.opened.owner, day, timedelta(0))
        assert {removal.thing.kind for removal in removals} == {ResourceKind.SNAPSHOT}
        assert remove_resources(removals, aws, books, ledger, lambda *_: None) == len(removals) == 2
        assert list(ledger.records()) == []
        # And when the image is wanted again it is uploaded again.
        again = one.want(images.hello)
        first.settle()
        assert first.state(again) is MachineState.RUNNING


def test_what_came_into_use_meanwhile_stays(images: Images, world: AwsWorld, profile: str, tmp_path: Path) -> None:
    host = Ec2Site(images, world, tmp_path / "host", account(world, profile))
    with host.open() as site:
        uuid = host.want(images.hello)
        site.settle()
        aws, owner, books = site.opened.aws, site.opened.owner, site.opened.books
        things = [thing for thing in list_resources(aws, owner, books) if thing.kind is ResourceKind.SNAPSHOT]
        removals = plan_cleanup(
            things, owner, datetime.now(UTC) + timedelta(days=1), timedelta(0)
        )  # as if there were no AMI
        assert len(removals) == 2
        told: list[str] = []
        assert remove_resources(removals, aws, books, site.opened.ledger, lambda _, became: told.append(became)) == 0
        assert set(told) == {"is in use now; kept"}
        site.settle()
        assert site.state(uuid) is MachineState.RUNNING
