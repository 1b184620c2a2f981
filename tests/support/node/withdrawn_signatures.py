"""Revocations by those who may and may not, and cases that they change."""

from typing import Any

from deployer.policy.evaluation import EvaluationInput
from deployer.policy.model import Policy
from deployer.policy.revocations import BlockList, RevocationState
from deployer.policy.store import RuleSet
from signer.statements.revocation import SECURITY_OFFICER, RevokedObject
from signer.verification.revocations import revoke
from tests.support.node.policy_site import IMAGE, ORDER, Site


def rules(site: Site, said: str = "") -> RuleSet:
    anchors = (site.ann.anchor(), site.bob.anchor(), site.kim.anchor("star", SECURITY_OFFICER))
    found: Policy = site.policy(said, *anchors)
    return RuleSet(found, digest=found.digest)


def case(site: Site, *pairs: Any, **block: Any) -> EvaluationInput:
    signed = [site.image(site.ann), site.image(site.bob)]
    return EvaluationInput(IMAGE, signed, ORDER, withdrawn=RevocationState(pairs, BlockList(**block)))


def by_officer(site: Site, **more: Any) -> Any:
    image = RevokedObject("image", IMAGE.title, more.pop("digest", IMAGE.image_id), since=more.pop("since", None))
    return revoke(site.kim, image, "star", site.now, **({"reason": "compromised"} | more))


def anns_key(site: Site) -> Any:
    return revoke(site.kim, RevokedObject("key", "x509:/DC=org/CN=Ann"), "star", site.now, reason="compromised")
