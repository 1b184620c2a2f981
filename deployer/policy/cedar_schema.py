"""What Cedar rules can speak of: the schema, and a request's facts as its entities. Pure; `cedar` is the engine's door.

Cedar has no loops, so what a rule would look for in all partitions or endorsements stands on the image as sets too.
Sizes are bytes, times seconds; the clock is UTC.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from catalog.image.manifest import Manifest, Partition, PlacedPartition
from deployer.policy.decision import Request
from deployer.policy.rules.amounts import total_blank_size, total_disk_size
from deployer.policy.rules.rule import PolicyCase
from signer.verification.trust import EndorsementCheck

SCHEMA: Final = """\
// Who asks. On a node without a site, every requester is "local".
entity Requester = { name: String, vos: Set<String>, roles: Set<String> };

// The image that is asked for, as its manifest has it. Sizes are bytes.
entity Image = {
  id: String, title: String, vo: String, name: String, version: String,
  architecture: String, os: String, osVersion: String, boot: String, contextualization: String,
  disks: Long, diskSize: Long, blankSize: Long, needsMemory: Long, needsCores: Long,
  partitions: Set<Partition>,
  labels: Set<String>, kinds: Set<String>, contents: Set<String>,  // of its partitions
  links: Set<String>,                                              // hrefs of its provenance
  endorsements: Set<Endorsement>,                                  // those that count, and no others
  endorsers: Set<String>, roles: Set<String>,                      // of those
};

// `kind` is the partition's type; `content` its address; `blank` the filesystem that the node makes.
entity Partition in [Image] = {
  label: String, kind: String, access: String, size: Long, offset: Long, content?: String, blank?: String,
};

// `age` and `left` are seconds since it was issued and until it expires.
entity Endorsement in [Image] = {
  endorser: String, role: String, vo: String, age: Long, left: Long, comment: String,
};

// What is asked for, each machine; lifetime in seconds. What counts is how far a machine may grow while it runs.
entity Resources = {
  count: Long, maxMemory: Long, maxCores: Long, lifetime: Long, scratch: Long, network: String, userData?: String,
};

// The node that decides. `running` machines it has already; `hour` 0-23 and `weekday` "mon" to "sun" in UTC; `now` is Unix time.
entity Site = { node: String, running: Long, now: Long, hour: Long, weekday: String };

action deploy appliesTo {
  principal: Requester, resource: Image, context: { resources: Resources, site: Site },
};
"""
"""In Cedar's own schema language (docs.cedarpolicy.com, "Human-readable schema format")."""

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def authorization_request(case: PolicyCase) -> dict[str, Any]:
    """The question, as the engine takes it."""
    return {
        "principal": _uid("Requester", case.requester.name),
        "action": _uid("Action", "deploy"),
        "resource": _uid("Image", case.manifest.image_id),
        "context": {"resources": _ref("Resources", "asked"), "site": _ref("Site", "here")},
    }


def build_entities(case: PolicyCase, counted: Sequence[EndorsementCheck]) -> list[dict[str, Any]]:
    """All that the schema names, as Cedar's JSON entities; `counted` are the endorsements of the image that count."""
    manifest, requester, now = case.manifest, case.requester, case.now
    image_id = manifest.image_id
    above = [_uid("Image", image_id)]
    parts = list(manifest.partitions())
    found = [_entity("Partition", f"{image_id}/{number}", _partition(part), above) for number, part in enumerate(parts)]
    found += [
        _entity("Endorsement", f"{image_id}/{number}", _endorsement(check, now), above)
        for number, check in enumerate(counted)
    ]
    found += [
        _entity("Image", image_id, _image(manifest, parts, counted)),
        _entity("Requester", requester.name, requester.model_dump(mode="json")),
        _entity("Resources", "asked", _resources(case.request)),
        _entity(
            "Site",
            "here",
            {
                "node": case.node,
                "running": case.running,
                "now": int(now.timestamp()),
                "hour": now.hour,
                "weekday": _WEEKDAYS[now.weekday()],
            },
        ),
    ]
    return found


def _image(manifest: Manifest, parts: Sequence[Partition], counted: Sequence[EndorsementCheck]) -> dict[str, Any]:
    image_id = manifest.image_id
    return {
        "id": image_id,
        "title": manifest.title,
        "vo": manifest.vo,
        "name": manifest.name,
        "version": manifest.version,
        "architecture": manifest.architecture,
        "os": manifest.os.id,
        "osVersion": manifest.os.version,
        "boot": manifest.boot.mode,
        "contextualization": manifest.contextualization,
        "disks": len(manifest.disks),
        "diskSize": total_disk_size(manifest),
        "blankSize": total_blank_size(manifest),
        "needsMemory": manifest.needs.memory,
        "needsCores": manifest.needs.cores,
        "partitions": [_ref("Partition", f"{image_id}/{number}") for number in range(len(parts))],
        "labels": _set(part.label for part in parts),
        "kinds": _set(part.type for part in parts),
        "contents": _set(str(part.content) for part in parts if part.content),
        "links": _set(link.href for link in manifest.provenance),
        "endorsements": [_ref("Endorsement", f"{image_id}/{number}") for number in range(len(counted))],
        "endorsers": _set(check.fingerprint for check in counted),
        "roles": _set(check.role for check in counted),
    }


def _partition(part: Partition) -> dict[str, Any]:
    found: dict[str, Any] = {
        "label": part.label,
        "kind": part.type,
        "access": part.access,
        "size": part.size,
        "offset": part.offset if isinstance(part, PlacedPartition) else 0,
    }
    if part.content is not None:
        found["content"] = str(part.content)
    if part.blank is not None:
        found["blank"] = part.blank.filesystem
    return found


def _endorsement(check: EndorsementCheck, now: datetime) -> dict[str, Any]:
    return {
        "endorser": check.fingerprint,
        "role": check.role,
        "vo": check.vo,
        "age": int((now - check.issued).total_seconds()) if check.issued else 0,
        "left": int((check.expires - now).total_seconds()) if check.expires else 0,
        "comment": check.comment,
    }


def _resources(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {
        "count": request.count,
        "maxMemory": request.max_memory,
        "maxCores": request.max_cores,
        "lifetime": request.lifetime,
        "scratch": sum(blank.size for blank in request.blanks),
        "network": str(request.network),
    }
    return found | ({"userData": request.user_data} if request.user_data else {})


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _ref(kind: str, name: str) -> dict[str, dict[str, str]]:
    return {"__entity": _uid(kind, name)}


def _entity(kind: str, name: str, attributes: dict[str, Any], parents: Sequence[object] = ()) -> dict[str, Any]:
    return {"uid": _uid(kind, name), "attrs": attributes, "parents": list(parents)}


def _set(texts: Any) -> list[str]:
    return sorted(set(texts))
