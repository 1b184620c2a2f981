"""The rules about which VOs' images may run, and which images."""

from collections.abc import Iterator
from typing import Final

from deployer.policy.decision import RuleResult
from deployer.policy.patterns import matches_image, matches_vo
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule, ask_site


class VoAllowed(PolicyRule):
    """The image's VO stands in vos.allow."""

    name = "vo-allowed"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        vo = case.manifest.vo
        found = matches_vo(case.policy.vos.allow, vo)
        yield self.result(
            passed=found is not None,
            reason=f"vos.allow has {found!r}",
            otherwise=f"VO {vo} is not in vos.allow",
            change=f"the site adds {vo!r} to vos.allow",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        vo, vos = case.manifest.vo, case.policy.vos
        yield ask_site(f"added {vo!r} to vos.allow", vos=vos.model_copy(update={"allow": (*vos.allow, vo)}))


class VoNotDenied(PolicyRule):
    """The image's VO does not stand in vos.deny."""

    name = "vo-not-denied"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        found = matches_vo(case.policy.vos.deny, case.manifest.vo)
        yield self.result(
            passed=found is None,
            reason=f"VO {case.manifest.vo} is not in vos.deny",
            otherwise=f"vos.deny has {found!r}",
            change=f"the site removes {found!r} from vos.deny",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        vo, vos = case.manifest.vo, case.policy.vos
        kept = tuple(one for one in vos.deny if not matches_vo((one,), vo))
        yield ask_site(f"took {vo!r} out of vos.deny", vos=vos.model_copy(update={"deny": kept}))


class ImageAllowed(PolicyRule):
    """The image stands in images.allow."""

    name = "image-allowed"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        manifest = case.manifest
        found = matches_image(case.policy.images.allow, manifest)
        yield self.result(
            passed=found is not None,
            reason=f"images.allow has {found!r}",
            otherwise=f"{manifest.title} is not in images.allow",
            change=f"the site adds {manifest.vo + '/' + manifest.name!r} or the image's ID to images.allow",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        name, images = f"{case.manifest.vo}/{case.manifest.name}", case.policy.images
        allow = (*images.allow, name)
        yield ask_site(f"added {name!r} to images.allow", images=images.model_copy(update={"allow": allow}))


class ImageNotDenied(PolicyRule):
    """The image does not stand in images.deny."""

    name = "image-not-denied"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        found = matches_image(case.policy.images.deny, case.manifest)
        yield self.result(
            passed=found is None,
            reason=f"{case.manifest.title} is not in images.deny",
            otherwise=f"images.deny has {found!r}",
            change="choose another version, or the site removes that from images.deny",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        images = case.policy.images
        kept = tuple(one for one in images.deny if not matches_image((one,), case.manifest))
        found = matches_image(images.deny, case.manifest)
        yield ask_site(f"took {found!r} out of images.deny", images=images.model_copy(update={"deny": kept}))


LISTED: Final[tuple[PolicyRule, ...]] = (VoAllowed(), VoNotDenied(), ImageAllowed(), ImageNotDenied())
