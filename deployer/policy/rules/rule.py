"""What a rule is: it judges a case, and proposes changes that may help against what it refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from catalog.image.manifest import Manifest
from deployer.policy.decision import LOCAL_REQUESTER, Request, Requester, RuleResult
from deployer.policy.model import Policy
from signer.verification.trust import EndorsementCheck


@dataclass(frozen=True)
class RevocationFacts:
    """What is current about an image.

    Attributes:
        blocked: the entry of the site's block list that names it, or empty.
        revoked: who revoked it and when, as the end of a sentence, or empty.
    """

    blocked: str = ""
    revoked: str = ""


@dataclass(frozen=True)
class PolicyCase:
    """All that the rules of a policy, and those in Cedar beside it, depend on.

    Attributes:
        policy: the site's.
        request: what is asked for.
        manifest: the image, whose bytes the caller has checked against the ID that it was asked for by.
        checks: the verification of each endorsement of this very image, with this policy's anchors.
        now: aware, UTC.
        running: machines that the node has already.
        revocation: what is current; None where only the policy's own rules are asked.
        requester: who asks.
        node: the identity of the node that decides, or empty.
    """

    policy: Policy
    request: Request
    manifest: Manifest
    checks: tuple[EndorsementCheck, ...]
    now: datetime
    running: int = 0
    revocation: RevocationFacts | None = None
    requester: Requester = LOCAL_REQUESTER
    node: str = ""

    def with_policy(self, **changes: Any) -> "PolicyCase":
        """The same by another policy."""
        return replace(self, policy=self.policy.model_copy(update=changes))

    def with_request(self, **changes: Any) -> "PolicyCase":
        """The same for another request."""
        return replace(self, request=self.request.model_copy(update=changes))


@dataclass(frozen=True)
class PolicyChange:
    """A change: who can make it, what it is (after "if"), and what it makes of a case."""

    who: Literal["requester", "endorser", "site"]
    text: str
    apply: Callable[[PolicyCase], PolicyCase]


Fixes = Callable[[PolicyCase], Iterator[PolicyChange]]
"""Changes that may help where a result refuses, the nearest first; each is tried before it is proposed."""


@dataclass(frozen=True)
class PolicyRule:
    """One rule, of every policy.

    Attributes:
        name: of its result.
        judge: its results: always the same ones for the same policy and image, passed or not.
        fixes: changes against a result that refuses.
        several: it gives a result for each of several things; their names begin with its own and a hyphen.
        urgent: what helps against it may help against others too, so it is helped first.
    """

    name: str
    judge: Callable[[PolicyCase], Iterator[RuleResult]]
    fixes: Fixes
    several: bool = False
    urgent: bool = False

    def gives(self, name: str) -> bool:
        """Whether a result of that name is this rule's."""
        return name.startswith(f"{self.name}-") if self.several else name == self.name


def requester_change(text: str, **changes: Any) -> PolicyChange:
    """The requester asks for something else."""
    return PolicyChange("requester", f"you {text}", lambda case: case.with_request(**changes))


def section_change(text: str, section: str, **changes: Any) -> PolicyChange:
    """The site changes members of a section of its policy."""
    return PolicyChange(
        "site",
        f"the site {text}",
        lambda case: case.with_policy(**{section: getattr(case.policy, section).model_copy(update=changes)}),
    )


def enumerate_texts(texts: list[str]) -> str:
    """Texts as they stand in a sentence."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def counted(count: int, what: str) -> str:
    """A number of things: "1 machine", "2 machines"."""
    return f"{count} {what}" + ("" if count == 1 else "s")
