"""The rules that come before all others: the site's block list, and what security officers have revoked."""

from collections.abc import Iterator
from typing import Final

from deployer.policy.decision import RuleResult
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule


class NotBlocked(PolicyRule):
    """The site's block list does not name the image."""

    name = "not-blocked"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        if case.revocation is not None:
            entry = case.revocation.blocked
            yield self.result(
                passed=not entry,
                reason="the site's block list does not name it",
                otherwise=f"the site's block list has {entry!r}",
                change="choose another image, or the site takes that out of its block list",
            )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:  # noqa: ARG002 - see there
        """None: a block list is not part of a policy, and is not edited for one request."""
        return iter(())


class NotRevoked(PolicyRule):
    """No security officer has revoked the image."""

    name = "not-revoked"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        if case.revocation is not None:
            by = case.revocation.revoked
            yield self.result(
                passed=not by,
                reason="no security officer has revoked it",
                otherwise=f"{case.manifest.title} was {by}",
                change="choose another version",
            )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:  # noqa: ARG002 - see there
        """None: what is revoked stays so."""
        return iter(())


CURRENT: Final[tuple[PolicyRule, ...]] = (NotBlocked(), NotRevoked())
"""In the order in which they are judged, and so in the other modules."""
