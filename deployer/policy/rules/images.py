"""The rules about the image as such: whether it is blocked or revoked, and whether the policy's lists name its VO and the image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from catalog.image.manifest import Manifest
from deployer.policy.decision import RuleResult
from deployer.policy.patterns import matches_image, matches_vo
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule, section_change


def _not_blocked(case: PolicyCase) -> Iterator[RuleResult]:
    if case.revocation is not None:
        yield RuleResult.of(
            "not-blocked",
            passed=not case.revocation.blocked,
            reason="the site's block list does not name it",
            otherwise=f"the site's block list has {case.revocation.blocked!r}",
            change="choose another image, or the site takes that out of its block list",
        )


def _not_revoked(case: PolicyCase) -> Iterator[RuleResult]:
    if case.revocation is not None:
        yield RuleResult.of(
            "not-revoked",
            passed=not case.revocation.revoked,
            reason="no security officer has revoked it",
            otherwise=f"{case.manifest.title} was {case.revocation.revoked}",
            change="choose another version",
        )


def _no_fixes(_: PolicyCase) -> Iterator[PolicyChange]:
    """A block list is not part of a policy and is not edited for one request; a revoked image stays revoked."""
    return iter(())


@dataclass(frozen=True)
class _Lists:
    """The lists `allow` and `deny` of one section of a policy, and how an image is looked up in them.

    Attributes:
        section: of the policy.
        find: the first pattern that names the image.
        entry: a pattern for the image.
        title: what the patterns name, for people.
        extra_entry: another way to write the entry, or empty.
        other_choice: what a requester can do where `deny` names it, or empty.
    """

    section: str
    find: Callable[[tuple[str, ...], Manifest], str | None]
    entry: Callable[[Manifest], str]
    title: Callable[[Manifest], str]
    extra_entry: str = ""
    other_choice: str = ""

    def rules(self, name: str) -> tuple[PolicyRule, PolicyRule]:
        """The rule about each of the two lists."""
        return (
            PolicyRule(f"{name}-allowed", partial(self._allowed, f"{name}-allowed"), self._allow),
            PolicyRule(f"{name}-not-denied", partial(self._not_denied, f"{name}-not-denied"), self._remove_denial),
        )

    def _allowed(self, name: str, case: PolicyCase) -> Iterator[RuleResult]:
        found = self.find(getattr(case.policy, self.section).allow, case.manifest)
        yield RuleResult.of(
            name,
            passed=found is not None,
            reason=f"{self.section}.allow has {found!r}",
            otherwise=f"{self.title(case.manifest)} is not in {self.section}.allow",
            change=f"the site adds {self.entry(case.manifest)!r}{self.extra_entry} to {self.section}.allow",
        )

    def _allow(self, case: PolicyCase) -> Iterator[PolicyChange]:
        entry = self.entry(case.manifest)
        allow = (*getattr(case.policy, self.section).allow, entry)
        yield section_change(f"added {entry!r} to {self.section}.allow", self.section, allow=allow)

    def _not_denied(self, name: str, case: PolicyCase) -> Iterator[RuleResult]:
        found = self.find(getattr(case.policy, self.section).deny, case.manifest)
        yield RuleResult.of(
            name,
            passed=found is None,
            reason=f"{self.title(case.manifest)} is not in {self.section}.deny",
            otherwise=f"{self.section}.deny has {found!r}",
            change=f"{self.other_choice}the site removes {found!r} from {self.section}.deny",
        )

    def _remove_denial(self, case: PolicyCase) -> Iterator[PolicyChange]:
        deny = getattr(case.policy, self.section).deny
        kept = tuple(one for one in deny if not self.find((one,), case.manifest))
        found = self.find(deny, case.manifest)
        yield section_change(f"took {found!r} out of {self.section}.deny", self.section, deny=kept)


_VOS: Final = _Lists(
    "vos",
    lambda patterns, manifest: matches_vo(patterns, manifest.vo),
    entry=lambda manifest: manifest.vo,
    title=lambda manifest: f"VO {manifest.vo}",
)
_IMAGES: Final = _Lists(
    "images",
    matches_image,
    entry=lambda manifest: f"{manifest.vo}/{manifest.name}",
    title=lambda manifest: manifest.title,
    extra_entry=" or the image's ID",
    other_choice="choose another version, or ",
)

CURRENT: Final = (
    PolicyRule("not-blocked", _not_blocked, _no_fixes),
    PolicyRule("not-revoked", _not_revoked, _no_fixes),
)
"""In the order in which they are judged, and so in the other modules."""

LISTED: Final = (*_VOS.rules("vo"), *_IMAGES.rules("image"))
