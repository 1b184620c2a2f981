"""A site with an administrator, a security officer and a VO, by keys and by certificates, and its policy."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from catalog.image.address import Address
from deployer.policy.anchors import anchor_block, certificate_anchor
from deployer.policy.decision import Decision, Request
from deployer.policy.evaluation import EvaluationInput, evaluate
from deployer.policy.model import Policy
from deployer.policy.store import RuleSet
from signer.openpgp.keyring import Keyring
from signer.verification.endorsements import endorse
from signer.verification.signers import KeySigner, Signer
from signer.verification.trust import Anchor
from tests.support.factories import manifest
from tests.support.grid_ca import Grid, Holder, utc_now

MIB = 1 << 20


BASE = Address(bytes([1]) * 32, 4 * MIB)


IMAGE = manifest([Address(bytes(32), MIB), BASE])


ADMIN, OFFICER = "image-administrator", "security-officer"


ORDER = Request.supposed(IMAGE.needs)


REST = """
[vos]
allow = ["star"]
[images]
allow = ["star/*"]
[limits]
memory = "64GiB"
cores = 64
disk = "1TiB"
blank = "1TiB"
lifetime = "12h"
machines = 3
"""


class Site:
    """A site with its CAs; Ann and Bob of the VO have certificates, Kim has a key."""

    def __init__(self, path: Path) -> None:
        (path / "ca").mkdir()
        self.now = utc_now()
        self.grid = Grid(path / "ca", self.now)
        self.root = self.grid.root("/DC=org/CN=Root")
        self.grid.install(self.root, "/DC=org/*")
        self.ann = self.grid.person(self.root, "/DC=org/CN=Ann")
        self.bob = self.grid.person(self.root, "/DC=org/CN=Bob O'Neill")
        keyring = Keyring(path / "keys")
        self.kim = KeySigner(keyring, keyring.generate("Kim <kim@site.example>"))

    def policy(self, said: str, *anchors: Anchor) -> Policy:
        """A policy with these anchors that judges certificates by the site's CAs."""
        text = f'{said}\n[x509]\ndirectory = "{self.grid.path}"\n{REST}'
        for one in anchors:
            if one.scheme == "x509":
                text += certificate_anchor(one.vo, one.role, one.key)[1]
            else:
                text += anchor_block(one.vo, one.role, one.fingerprint, one.key.decode())
        return Policy.parse(text.encode(), "policy p.toml")

    def decide(self, policy: Policy, pairs: Sequence[tuple[bytes, bytes]]) -> Decision:
        """What a node with that policy says."""
        return evaluate(RuleSet(policy, digest=policy.digest), EvaluationInput(IMAGE, pairs, ORDER), self.now).decision

    def image(self, signer: Signer | Holder, role: str = ADMIN, *, days: int = 0) -> tuple[bytes, bytes]:
        """An endorsement of the image, issued so many days ago."""
        who = signer.signer() if isinstance(signer, Holder) else signer
        at = self.now - timedelta(days=days)
        return endorse(who, IMAGE.image_id, IMAGE.title, at, role=role)


def failing(decision: Decision) -> set[str]:
    return {rule.name for rule in decision.failed}
