"""Registering images at EC2 as AMIs made of verified snapshots only.

An AMI is identified by its key: the contents that it is made of and how it boots. The same image again is the same AMI. Names
and tags at EC2 are not trusted: an AMI is used only if the site's own books list it, and EC2 describes it exactly as it was
registered: these snapshots on these devices, this boot mode, nothing more. Everything else is registered anew.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from catalog.image.manifest import Manifest
from deployer.ec2.account.bookkeeping import AmiEntry, Bookkeeping
from deployer.ec2.aws.client import AwsClient
from deployer.ec2.aws.tags import CATALOG_TAG, IMAGE_TAG, KEY_TAG, Owner, tag_specifications
from deployer.ec2.errors import AwsFailed, AwsMissing
from deployer.ec2.model.boot_mapping import BootMapping
from deployer.ec2.model.instances import MAX_TAG, block_device_mappings
from signer.documents import canonical

KEY_TYPE: Final = "urn:partita:ec2-image:v1"

AVAILABLE = 600.0
"""Seconds that a registered AMI gets to become available; it takes some."""

LOOK_EVERY = 2.0

log = logging.getLogger("partita.ec2")


def image_key(found: BootMapping, contents: Mapping[str, str]) -> str:
    """The key of an AMI: 64 hex digits over how it boots and the contents that it is made of.

    Args:
        found: how it boots, and its volumes.
        contents: the content key of each volume that begins with bytes, by device.
    """
    volumes = [
        {"device": volume.device, "size": volume.size, "content": contents.get(volume.device, "")}
        for volume in found.volumes
    ]
    parts = {"type": KEY_TYPE, "boot": found.boot_mode, "architecture": found.architecture, "volumes": volumes}
    return hashlib.sha256(canonical(parts)).hexdigest()


def register_request(
    name: str, manifest: Manifest, found: BootMapping, snapshots: Mapping[str, str], tags: Mapping[str, str]
) -> dict[str, Any]:
    """The parameters of RegisterImage."""
    return {
        "Name": name,
        "Description": f"{manifest.title} {manifest.image_id}"[:255],
        "Architecture": found.architecture,
        "BootMode": found.boot_mode,
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "SriovNetSupport": "simple",
        "ImdsSupport": "v2.0",
        "RootDeviceName": found.volumes[0].device,
        "BlockDeviceMappings": block_device_mappings(found.volumes, snapshots),
        "TagSpecifications": tag_specifications(("image",), tags),
    }


def ami_difference(described: Mapping[str, Any], found: BootMapping, snapshots: Mapping[str, str]) -> str:
    """How an AMI differs from the one that would be registered, in a few words; empty if it does not."""
    wanted = {
        "Architecture": found.architecture,
        "BootMode": found.boot_mode,
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "ImdsSupport": "v2.0",
        "RootDeviceName": found.volumes[0].device,
        "RootDeviceType": "ebs",
        "ImageType": "machine",
        "KernelId": None,
        "RamdiskId": None,
        "TpmSupport": None,
    }
    for name, value in wanted.items():
        if (described.get(name) or None) != (value or None):
            return f"its {name} is {described.get(name)} instead of {value}"
    there = {
        str(each.get("DeviceName")): (
            each.get("Ebs", {}).get("SnapshotId") or "",
            each.get("Ebs", {}).get("VolumeSize"),
        )
        for each in described.get("BlockDeviceMappings", ())
    }
    for volume in found.volumes:
        if there.pop(volume.device, None) != (snapshots.get(volume.device, ""), volume.size):
            return f"its {volume.device} differs from the registered volume"
    return f"it has one more device, {min(there)}" if there else ""


class AmiRegistrar:
    """Registers images in one account.

    Args:
        aws: the account.
        books: of the account.
        owner: the site and its pool, for the tags.
        clock: the present, UTC.
        new_nonce: 32 hex digits for the name of an AMI, so that no AMI of that name was registered before.
        sleep: seconds.
    """

    def __init__(
        self,
        aws: AwsClient,
        books: Bookkeeping,
        owner: Owner,
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._aws, self._books, self._owner = aws, books, owner
        self._clock, self._new_nonce, self._sleep = clock, new_nonce, sleep

    def register(
        self, manifest: Manifest, found: BootMapping, contents: Mapping[str, str], snapshots: Mapping[str, str]
    ) -> AmiEntry:
        """The AMI of an image, registered now or before.

        Args:
            manifest: the image.
            found: how it boots.
            contents: the content key of each volume, by device.
            snapshots: the verified snapshot of each, by device.

        Raises:
            AwsFailed: EC2 does not register it, or it does not become available.
        """
        key = image_key(found, contents)
        entry = self._books.image(key)
        described = self._described(entry) if entry is not None else None
        if entry is not None and described is not None:
            if not (wrong := self._difference(described, found, snapshots)):
                return self._keep(entry, described)
            log.warning("AMI %s is not used: %s", described["ImageId"], wrong)
            self._books.forget("image", key)
            entry = None
        if entry is None or entry.ami:  # an AMI that EC2 has lost gets a new name
            now = self._clock().replace(microsecond=0)
            entry = AmiEntry(
                key=key,
                name=f"partita-{manifest.image_id[7:23]}-{self._new_nonce()}",
                image_id=manifest.image_id,
                title=manifest.title,
                contents=dict(contents),
                addresses=tuple(str(address) for address in manifest.contents()),
                at=now,
                used=now,
            )
            self._books.put_image(entry)
        tags = self._owner.tags | {
            KEY_TAG: key,
            IMAGE_TAG: manifest.image_id,
            CATALOG_TAG: manifest.title[:MAX_TAG],
            "Name": manifest.title[:MAX_TAG],
        }
        request = register_request(entry.name, manifest, found, snapshots, tags)
        try:
            ami = str(self._aws.ec2("register_image", **request)["ImageId"])
        except AwsFailed as exc:
            if exc.fault != "InvalidAMIName.Duplicate":
                raise
            # The answer to an earlier attempt was lost on its way; nobody else knows this name.
            ami = ""
        entry = entry.model_copy(update={"ami": ami})
        described = self._await(entry)
        if wrong := self._difference(described, found, snapshots):
            raise AwsFailed(f"AMI {described['ImageId']} differs from the registered image: {wrong}")
        return self._keep(entry, described)

    def forget(self, entry: AmiEntry) -> None:
        """Deregister an AMI at EC2, if it exists, and remove it from the books."""
        try:
            if entry.ami:
                self._aws.ec2("deregister_image", ImageId=entry.ami)
        except AwsFailed as exc:
            if not isinstance(exc, AwsMissing) and exc.fault != "InvalidAMIID.Unavailable":
                raise
        self._books.forget("image", entry.key)

    def _keep(self, entry: AmiEntry, described: Mapping[str, Any]) -> AmiEntry:
        now = self._clock().replace(microsecond=0)
        entry = entry.model_copy(update={"ami": str(described["ImageId"]), "used": now})
        self._books.put_image(entry)
        return entry

    def _described(self, entry: AmiEntry) -> dict[str, Any] | None:
        """EC2's description of an AMI, by its ID or its name; None if it does not exist or is no longer usable."""
        wanted: dict[str, Any] = {"Owners": ["self"]}
        wanted |= {"ImageIds": [entry.ami]} if entry.ami else {"Filters": [{"Name": "name", "Values": [entry.name]}]}
        try:
            images = self._aws.ec2("describe_images", **wanted)["Images"]
        except AwsFailed as exc:
            if isinstance(exc, AwsMissing) or exc.fault == "InvalidAMIID.Unavailable":
                return None
            raise
        usable = [image for image in images if image.get("State") in {"available", "pending"}]
        return usable[0] if usable else None

    def _await(self, entry: AmiEntry) -> dict[str, Any]:
        left = AVAILABLE
        while True:
            described = self._described(entry)
            if described is not None and described["State"] == "available":
                return described
            if left <= 0:
                raise AwsFailed(
                    f"AMI {entry.ami or entry.name} is still not available {AVAILABLE:.0f} s after its registration"
                )
            self._sleep(LOOK_EVERY)
            left -= LOOK_EVERY

    def _difference(self, described: Mapping[str, Any], found: BootMapping, snapshots: Mapping[str, str]) -> str:
        if wrong := ami_difference(described, found, snapshots):
            return wrong
        if found.boot_mode == "uefi":  # variables of the firmware could name another boot loader
            answer = self._aws.ec2("describe_image_attribute", ImageId=described["ImageId"], Attribute="uefiData")
            if answer.get("UefiData", {}).get("Value"):
                return "it has its own firmware variables"
        return ""
