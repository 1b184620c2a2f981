"""Unused resources of a site at EC2: found, shown, and on request removed, the oldest first.

The plan is a pure function of EC2's descriptions. Only resources with this pool's own tags are ever removed, and never those
that another resource uses, of any owner: the AMI of any machine that is not terminated, the snapshots of an AMI that stays,
the parents of a snapshot that stays. Young resources stay: they may be about to be used.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from deployer.ec2.account.bookkeeping import Bookkeeping
from deployer.ec2.aws.client import AwsClient
from deployer.ec2.aws.tags import END_TAG, PARENT_TAG, Owner, Tags, read_instant, read_tags
from deployer.ec2.errors import AwsFailed, AwsMissing
from deployer.ec2.snapshots.record_store import SnapshotRecords

OVERDUE: Final = timedelta(hours=1)
"""How long after the end of its time a machine counts as forgotten by its site."""

UPLOADING: Final = timedelta(days=2)
"""How long a pending snapshot may still be an upload under way: EC2 cancels one after a day of silence."""

_IN_USE: Final = frozenset({"InvalidSnapshot.InUse", "VolumeInUse", "ResourceInUse"})


class ResourceKind(StrEnum):
    """Kinds of resources, in the order of removal: users before the resources that they use."""

    INSTANCE = "instance"
    VOLUME = "volume"
    IMAGE = "image"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True)
class CloudResource:
    """A resource at EC2.

    Attributes:
        since: when it was made; of an AMI, when it was last used, as far as is known.
        active: an instance that is not terminated, a volume that is attached, a snapshot that is still being written.
        uses: IDs of the resources that it needs: an instance its AMI, an AMI its snapshots, a snapshot its parent.
    """

    kind: ResourceKind
    id: str
    since: datetime
    active: bool = False
    uses: frozenset[str] = frozenset()
    tags: Tags = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Removal:
    """A resource to be removed, and the reason."""

    thing: CloudResource
    reason: str


def plan_cleanup(
    things: Sequence[CloudResource], owner: Owner, now: datetime, older_than: timedelta
) -> tuple[Removal, ...]:
    """The removals, in order.

    Args:
        things: all resources in the account, of other owners too, since they may use ours.
        owner: whose resources may be removed.
        now: the present.
        older_than: the least age of a resource, or the time since its last use.
    """
    chosen: dict[str, Removal] = {}
    while more := _freed(things, chosen, owner, now, older_than):
        chosen |= more
    return tuple(_in_order(chosen.values()))


def _freed(
    things: Sequence[CloudResource], chosen: Mapping[str, Removal], owner: Owner, now: datetime, older_than: timedelta
) -> dict[str, Removal]:
    """The resources that are unused once the chosen ones are removed."""
    holding = (thing for thing in things if thing.kind is not ResourceKind.INSTANCE or thing.active)  # not terminated
    used = {name for thing in holding if thing.id not in chosen for name in thing.uses}
    return {
        thing.id: Removal(thing, reason)
        for thing in things
        if thing.id not in chosen
        and (thing.id not in used or thing.kind is ResourceKind.INSTANCE)
        and owner.owns(thing.tags)
        and (reason := _reason(thing, now, older_than))
    }


def _reason(thing: CloudResource, now: datetime, older_than: timedelta) -> str:
    """Why an unused resource may be removed; empty if it stays."""
    age = now - thing.since
    if thing.kind is ResourceKind.INSTANCE:
        expires = read_instant(thing.tags.get(END_TAG, ""))
        overdue = thing.active and expires is not None and now >= expires + OVERDUE
        return "its time is over and its site has not ended it" if overdue else ""
    if thing.kind is ResourceKind.VOLUME:
        return "" if thing.active or age < older_than else "not attached to a machine"
    if thing.kind is ResourceKind.IMAGE:
        return "not used by a machine" if age >= older_than else ""
    if thing.active:
        return "its upload was abandoned" if age >= max(UPLOADING, older_than) else ""
    return "not used by an image" if age >= older_than else ""


def _in_order(removals: Iterable[Removal]) -> Iterable[Removal]:
    """By kind, the oldest first; a snapshot after those that build on it."""
    found = list(removals)
    for kind in ResourceKind:
        own = {removal.thing.id: removal for removal in found if removal.thing.kind is kind}
        left = dict.fromkeys(own, 0)
        for removal in own.values():
            for below in removal.thing.uses & own.keys():
                left[below] += 1
        heap = [(own[name].thing.since, name) for name, count in left.items() if not count]
        heapq.heapify(heap)
        while heap:
            _, name = heapq.heappop(heap)
            yield own[name]
            for below in own[name].thing.uses & own.keys():
                left[below] -= 1
                if not left[below]:
                    heapq.heappush(heap, (own[below].thing.since, below))


def list_resources(aws: AwsClient, owner: Owner, books: Bookkeeping) -> list[CloudResource]:
    """The resources in the account that the plan needs; raises the errors of AWS."""
    used = {entry.ami: entry.used for entry in books.images()}
    found = []
    for reservation in aws.ec2_list("describe_instances", "Reservations"):
        found += [_instance(each) for each in reservation.get("Instances", ())]
    found += [_image(each, used) for each in aws.ec2("describe_images", Owners=["self"])["Images"]]
    found += [_snapshot(each) for each in aws.ec2_list("describe_snapshots", "Snapshots", OwnerIds=["self"])]
    found += [
        _volume(each) for each in aws.ec2_list("describe_volumes", "Volumes") if owner.owns(read_tags(each.get("Tags")))
    ]
    return found


def remove_resources(
    removals: Sequence[Removal],
    aws: AwsClient,
    books: Bookkeeping,
    ledger: SnapshotRecords,
    tell: Callable[[Removal, str], None],
) -> int:
    """Carry out the plan; returns the number of removed resources. EC2 keeps those that have come into use meanwhile.

    Args:
        tell: called with each removal and its outcome.
    """
    count = 0
    for removal in removals:
        try:
            _remove(removal.thing, aws, books, ledger)
        except AwsMissing:
            tell(removal, "no longer existed")
        except AwsFailed as exc:
            if exc.fault not in _IN_USE:
                raise
            tell(removal, "is in use now; kept")
        else:
            count += 1
            tell(removal, "removed")
    return count


def _remove(thing: CloudResource, aws: AwsClient, books: Bookkeeping, ledger: SnapshotRecords) -> None:
    match thing.kind:
        case ResourceKind.INSTANCE:
            aws.ec2("terminate_instances", InstanceIds=[thing.id])
        case ResourceKind.VOLUME:
            aws.ec2("delete_volume", VolumeId=thing.id)
        case ResourceKind.IMAGE:
            aws.ec2("deregister_image", ImageId=thing.id)
            for entry in [entry for entry in books.images() if entry.ami == thing.id]:
                books.forget("image", entry.key)
        case ResourceKind.SNAPSHOT:
            aws.ec2("delete_snapshot", SnapshotId=thing.id)
            for record in [record for record in ledger.records() if record.snapshot_id == thing.id]:
                ledger.forget(record.content)


def _instance(described: Mapping[str, Any]) -> CloudResource:
    volumes = (each.get("Ebs", {}).get("VolumeId", "") for each in described.get("BlockDeviceMappings", ()))
    return CloudResource(
        ResourceKind.INSTANCE,
        str(described["InstanceId"]),
        _aware(described.get("LaunchTime")),
        active=described["State"]["Name"] != "terminated",
        uses=frozenset({str(described.get("ImageId", "")), *volumes} - {""}),
        tags=(tags := read_tags(described.get("Tags"))),
        title=tags.get("Name", ""),
    )


def _image(described: Mapping[str, Any], used: Mapping[str, datetime]) -> CloudResource:
    snapshots = (each.get("Ebs", {}).get("SnapshotId", "") for each in described.get("BlockDeviceMappings", ()))
    name = str(described["ImageId"])
    return CloudResource(
        ResourceKind.IMAGE,
        name,
        max(_aware(described.get("CreationDate")), used.get(name, datetime.min.replace(tzinfo=UTC))),
        uses=frozenset(snapshot for snapshot in snapshots if snapshot),
        tags=(tags := read_tags(described.get("Tags"))),
        title=tags.get("Name", str(described.get("Name", ""))),
    )


def _snapshot(described: Mapping[str, Any]) -> CloudResource:
    tags = read_tags(described.get("Tags"))
    return CloudResource(
        ResourceKind.SNAPSHOT,
        str(described["SnapshotId"]),
        _aware(described.get("StartTime")),
        active=described.get("State") != "completed",
        uses=frozenset({tags[PARENT_TAG]} if tags.get(PARENT_TAG) else ()),
        tags=tags,
        title=str(described.get("Description", "")),
    )


def _volume(described: Mapping[str, Any]) -> CloudResource:
    return CloudResource(
        ResourceKind.VOLUME,
        str(described["VolumeId"]),
        _aware(described.get("CreateTime")),
        active=described.get("State") != "available",
        tags=(tags := read_tags(described.get("Tags"))),
        title=tags.get("Name", ""),
    )


def _aware(found: object) -> datetime:
    """An instant of an answer of EC2; the earliest possible one if it is missing."""
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found if isinstance(found, datetime) else datetime.min.replace(tzinfo=UTC)
