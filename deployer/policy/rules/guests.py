"""The rules about what a guest is given: user-data, and a network."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

from deployer.machine.network import Network
from deployer.policy.decision import RuleResult
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule, ask, ask_machines


class UserDataAllowed(PolicyRule):
    """The image reads user-data, and its kind stands in user_data.allow."""

    name = "user-data"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        kind, manifest = case.request.user_data, case.manifest
        if kind is not None and manifest.contextualization == "none":
            yield RuleResult(
                name=self.name,
                passed=False,
                reason=f"{manifest.title} reads no user-data",
                change="ask without user-data, or choose an image with contextualization",
            )
            return
        allowed = case.policy.user_data.allow
        yield self.result(
            passed=kind is None or kind in allowed,
            reason=f"user_data.allow has {kind!r}" if kind else "no user-data is given",
            otherwise=f"user-data of the kind {kind!r} is not in user_data.allow",
            change=f"give {' or '.join(allowed)} instead" if allowed else "ask without user-data",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        return plainer_guests(case)


class NetworkAllowed(PolicyRule):
    """The network stands in networks.allow; none is always allowed."""

    name = "network"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        wanted, allowed = str(case.request.machine.network), case.policy.networks.allow
        yield self.result(
            passed=wanted == "none" or any(fnmatchcase(wanted, pattern) for pattern in allowed),
            reason="no network is asked for" if wanted == "none" else f"networks.allow covers {wanted!r}",
            otherwise=f"the network {wanted!r} is not in networks.allow",
            change=f"ask for {' or '.join(('none', *allowed))}",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        return plainer_guests(case)


def plainer_guests(case: PolicyCase) -> Iterator[PolicyChange]:
    """No user-data; another network, or none."""
    if case.request.user_data is not None:
        yield ask(f"gave no user-data instead of {case.request.user_data}", user_data=None)
    if (had := str(case.request.machine.network)) != "none":
        plain = [one for one in case.policy.networks.allow if "*" not in one and one != had]
        for text in (*plain, "none"):
            shown = "no network" if text == "none" else f"the network {text}"
            yield ask_machines(f"asked for {shown} instead of {had}", network=Network.parse(text))


GUEST: Final[tuple[PolicyRule, ...]] = (UserDataAllowed(), NetworkAllowed())
