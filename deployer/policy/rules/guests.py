"""The rules about what a guest is given: user-data, and a network."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

from deployer.machine.network import Network
from deployer.policy.decision import RuleResult
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule, requester_change


def _user_data_allowed(case: PolicyCase) -> Iterator[RuleResult]:
    """The image reads user-data, and its kind stands in user_data.allow."""
    kind, allowed, unread = (
        case.request.user_data,
        case.policy.user_data.allow,
        case.manifest.contextualization == "none",
    )
    otherwise = f"user-data of the kind {kind!r} is not in user_data.allow"
    change = f"give {' or '.join(allowed)} instead" if allowed else "ask without user-data"
    if unread:
        otherwise = f"{case.manifest.title} reads no user-data"
        change = "ask without user-data, or choose an image with contextualization"
    yield RuleResult.of(
        "user-data",
        passed=kind is None or (kind in allowed and not unread),
        reason=f"user_data.allow has {kind!r}" if kind else "no user-data is given",
        otherwise=otherwise,
        change=change,
    )


def _network_allowed(case: PolicyCase) -> Iterator[RuleResult]:
    """The network stands in networks.allow; none is always allowed."""
    network, allowed = str(case.request.network), case.policy.networks.allow
    yield RuleResult.of(
        "network",
        passed=network == "none" or any(fnmatchcase(network, pattern) for pattern in allowed),
        reason="no network is asked for" if network == "none" else f"networks.allow covers {network!r}",
        otherwise=f"the network {network!r} is not in networks.allow",
        change=f"ask for {' or '.join(('none', *allowed))}",
    )


def plainer_guests(case: PolicyCase) -> Iterator[PolicyChange]:
    """No user-data; another network, or none."""
    if case.request.user_data is not None:
        yield requester_change(f"gave no user-data instead of {case.request.user_data}", user_data=None)
    if (asked := str(case.request.network)) != "none":
        plain = [one for one in case.policy.networks.allow if "*" not in one and one != asked]
        for text in (*plain, "none"):
            shown = "no network" if text == "none" else f"the network {text}"
            yield requester_change(f"asked for {shown} instead of {asked}", network=Network.parse(text))


GUEST: Final = (
    PolicyRule("user-data", _user_data_allowed, plainer_guests),
    PolicyRule("network", _network_allowed, plainer_guests),
)
