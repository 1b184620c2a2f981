"""What a rule is: it judges a case, and proposes changes that may help against what it refused."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar, Literal

from catalog.image.manifest import Manifest
from deployer.policy.decision import Request, RuleResult
from deployer.policy.model import Policy
from signer.verification.trust import EndorsementCheck

Who = Literal["requester", "endorser", "site"]


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
    """All that the rules of a policy depend on.

    Attributes:
        policy: the site's.
        request: what is asked for.
        manifest: the image, whose bytes the caller has checked against the ID that it was asked for by.
        checks: what verification said of each endorsement of this very image, with this policy's anchors.
        now: aware, UTC.
        running: machines that the node has already.
        revocation: what is current; None where only the policy's own rules are asked.
    """

    policy: Policy
    request: Request
    manifest: Manifest
    checks: tuple[EndorsementCheck, ...]
    now: datetime
    running: int = 0
    revocation: RevocationFacts | None = None

    def with_policy(self, **changes: Any) -> "PolicyCase":
        """The same by another policy."""
        return replace(self, policy=self.policy.model_copy(update=changes))

    def with_limits(self, **limits: int) -> "PolicyCase":
        """The same by a policy with other limits."""
        return self.with_policy(limits=self.policy.limits.model_copy(update=limits))

    def with_machines(self, **properties: Any) -> "PolicyCase":
        """The same for other machines."""
        return replace(self, request=self.request.changed(**properties))


@dataclass(frozen=True)
class PolicyChange:
    """A change: who can make it, what it is (after "if"), and what it makes of a case."""

    who: Who
    text: str
    apply: Callable[[PolicyCase], PolicyCase]


class PolicyRule(ABC):
    """One rule, of every policy.

    Attributes:
        name: what its result is called.
        several: it gives a result for each of several things; their names begin with its own and a hyphen.
        urgent: what helps against it may help against others too, so it is helped first.
    """

    name: ClassVar[str]
    several: ClassVar[bool] = False
    urgent: ClassVar[bool] = False

    @abstractmethod
    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        """Its results: always the same ones for the same policy and image, passed or not."""

    @abstractmethod
    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        """Changes that may help where a result refuses, the nearest first; each is tried before it is proposed."""

    def gives(self, name: str) -> bool:
        """Whether a result of that name is this rule's."""
        return name.startswith(f"{self.name}-") if self.several else name == self.name

    def result(self, *, passed: bool, reason: str, otherwise: str, change: str, name: str = "") -> RuleResult:
        """A result: `reason` where it passed, else `otherwise` and what would have to change."""
        return RuleResult(
            name=name or self.name,
            passed=passed,
            reason=reason if passed else otherwise,
            change="" if passed else change,
        )


def ask(text: str, **changes: Any) -> PolicyChange:
    """The requester asks for something else."""
    return PolicyChange(
        "requester", f"you {text}", lambda case: replace(case, request=replace(case.request, **changes))
    )


def ask_machines(text: str, **properties: Any) -> PolicyChange:
    """The requester asks for other machines."""
    return PolicyChange("requester", f"you {text}", lambda case: case.with_machines(**properties))


def ask_site(text: str, **changes: Any) -> PolicyChange:
    """The site changes its policy."""
    return PolicyChange("site", f"the site {text}", lambda case: case.with_policy(**changes))


def enumerate_texts(texts: list[str]) -> str:
    """Texts as they stand in a sentence."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def counted(count: int, what: str) -> str:
    """A number of things: "1 machine", "2 machines"."""
    return f"{count} {what}" + ("" if count == 1 else "s")
