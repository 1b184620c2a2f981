"""Operations on the instances of a pool at EC2: thin and idempotent; instances are listed by the pool's own tags."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deployer.ec2.aws.client import AwsClient
from deployer.ec2.aws.tags import POOL_TAG, REBOOTS_TAG, SITE_TAG, Owner, write_tags
from deployer.ec2.errors import AwsFailed, AwsMissing
from deployer.ec2.model.instance_types import InstanceType, parse_types
from deployer.ec2.model.instances import Instance, parse_instance

_YOUNG: Final = frozenset({"InvalidInstanceID.NotFound"})
"""Fault codes of EC2 for an instance in the first seconds after it was made."""


class Ec2Machines:
    """The machines of one pool in one account; for any number of threads. All methods raise AwsFailed and its kinds."""

    def __init__(self, aws: AwsClient, owner: Owner) -> None:
        self._aws, self.owner = aws, owner

    def all(self) -> list[Instance]:
        """All instances with the pool's tags; EC2 lists ended ones for about an hour."""
        return list(self._described(self._mine()))

    def run(self, request: Mapping[str, Any]) -> Instance:
        """Start a machine, or return the one that was started with the same client token."""
        try:
            answer = self._aws.ec2("run_instances", again=frozenset({"InvalidAMIID.NotFound"}), **request)
        except AwsFailed as exc:
            # It was started before, with another end or receipt in its tags: that is the machine.
            if exc.fault != "IdempotentParameterMismatch":
                raise
            begun = self.begun(request["ClientToken"])
            if begun is None:
                raise
            return begun
        return parse_instance(answer["Instances"][0])

    def begun(self, token: str) -> Instance | None:
        """The machine that was started with a client token, if EC2 lists it already."""
        filters = [*self._mine(), {"Name": "client-token", "Values": [token]}]
        return next(self._described(filters), None)

    def start(self, instance: str) -> None:
        """Start a stopped instance."""
        self._aws.ec2("start_instances", again=_YOUNG, InstanceIds=[instance])

    def stop(self, instance: str, *, hibernate: bool = False) -> None:
        """Stop an instance: its guest is asked to power off, or to hibernate, and forced to after some minutes."""
        more = {"Hibernate": True} if hibernate else {}
        self._aws.ec2("stop_instances", again=_YOUNG, InstanceIds=[instance], **more)

    def reboot(self, instance: str, count: int) -> None:
        """Reboot an instance, and note the number of reboots in its tags."""
        self._aws.ec2("reboot_instances", again=_YOUNG, InstanceIds=[instance])
        self.tag(instance, {REBOOTS_TAG: str(count)})

    def retype(self, instance: str, instance_type: str, tags: Mapping[str, str]) -> None:
        """Change the type of a stopped instance, then tag it with the size that the type was chosen for."""
        self._aws.ec2("modify_instance_attribute", InstanceId=instance, InstanceType={"Value": instance_type})
        self.tag(instance, tags)

    def tag(self, instance: str, tags: Mapping[str, str]) -> None:
        """Set tags of a resource; its other tags stay."""
        self._aws.ec2("create_tags", again=_YOUNG, Resources=[instance], Tags=write_tags(tags))

    def terminate(self, instance: str) -> None:
        """Terminate an instance with its volumes, if it exists."""
        try:
            self._aws.ec2("terminate_instances", InstanceIds=[instance])
        except AwsMissing:
            return

    def types(self, names: tuple[str, ...]) -> tuple[InstanceType, ...]:
        """Instance types as EC2 describes them."""
        return parse_types(self._aws.ec2_list("describe_instance_types", "InstanceTypes", InstanceTypes=list(names)))

    def _mine(self) -> list[dict[str, Any]]:
        return [
            {"Name": f"tag:{SITE_TAG}", "Values": [self.owner.site]},
            {"Name": f"tag:{POOL_TAG}", "Values": [self.owner.pool]},
        ]

    def _described(self, filters: list[dict[str, Any]]) -> Iterator[Instance]:
        for reservation in self._aws.ec2_list("describe_instances", "Reservations", Filters=filters):
            for described in reservation.get("Instances", ()):
                yield parse_instance(described)
