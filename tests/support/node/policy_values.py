"""Policies, endorsements that were checked, and requests: what decisions are made of."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from catalog.image.address import Address
from catalog.image.manifest import Manifest
from deployer.errors import PolicyUnusable
from deployer.policy.anchors import MAX_KEY
from deployer.policy.decision import Decision, Request
from deployer.policy.model import MAX_POLICY, Policy
from deployer.policy.rules import registry
from deployer.policy.rules.rule import PolicyCase
from signer.verification.trust import EndorsementCheck
from tests.support.factories import manifest

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MIB, GIB = 1 << 20, 1 << 30
IMAGE = manifest([Address(bytes(32), MIB), Address(bytes([1]) * 32, 4 * MIB)])
A, B, C = "A" * 40, "B" * 40, "C" * 40
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"
ORDER = Request.supposed(IMAGE.needs, memory=256 * MIB)


def load_policy(path: Path) -> Policy:
    """Read a policy file and the key files beside it."""

    def read(file: Path, limit: int) -> bytes:
        with file.open("rb") as opened:
            return opened.read(limit + 1)

    try:
        data = read(path, MAX_POLICY)
    except OSError as exc:
        raise PolicyUnusable(f"policy {path}: cannot be read: {exc.strerror}") from exc
    return Policy.parse(data, f"policy {path}", lambda name: read(path.parent / name, MAX_KEY))


def ordered(**changes: Any) -> Request:
    """`ORDER`, with members of the request or of its machines replaced; `memory` and `cores` are the ceiling, too."""
    ceiling = {f"max_{name}": changes[name] for name in ("memory", "cores") if name in changes}
    return ORDER.model_copy(update=ceiling | changes)


def anchors(*who: tuple[str, str]) -> str:
    return "".join(
        f"[[anchor]]\nvo='star'\nrole='{role}'\nfingerprint='{fpr}'\nkey='''\n{KEY}'''\n" for fpr, role in who
    )


TWO = anchors((A, "admin"), (B, "admin"))
RULES = """
[endorsements]
{endorsements}
[vos]
allow = ["star"]
{vos}
[images]
allow = ["star/*"]
{images}
[endorsers]
{endorsers}
[limits]
memory = "1GiB"
cores = 2
disk = "1GiB"
blank = "100MiB"
lifetime = "12h"
machines = 3
[user_data]
allow = ["cloud-config"]
[networks]
allow = ["user", "network:g*"]
"""


def policy(trusted: str = TWO, **rules: str) -> Policy:
    said = {"endorsements": "threshold = 1", "vos": "", "images": "", "endorsers": ""} | rules
    return Policy.parse((trusted + RULES.format(**said)).encode(), "policy")


def vouched(fingerprint: str = A, **changes: Any) -> EndorsementCheck:
    fields: dict[str, Any] = {
        "counts": True,
        "reason": "It counts.",
        "fingerprint": fingerprint,
        "vo": "star",
        "role": "admin",
        "issued": NOW - timedelta(days=10),
        "expires": NOW + timedelta(days=10),
        "title": IMAGE.title,
        "image_id": IMAGE.image_id,
    }
    return EndorsementCheck(**fields | changes)


def failed(decision: Decision) -> dict[str, tuple[str, str]]:
    return {rule.name: (rule.reason, rule.change) for rule in decision.failed}


def decide(
    rules: Policy,
    request: Request,
    image: Manifest,
    checks: Sequence[EndorsementCheck],
    now: datetime,
    running: int = 0,
) -> Decision:
    """What the rules of a policy say to a request."""
    return registry.decide(PolicyCase(rules, request, image, tuple(checks), now, running))
