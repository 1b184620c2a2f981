"""Rules of a site and one case of theirs."""

from pathlib import Path
from typing import Any

from deployer.policy.store import RuleSet
from deployer.trials.expectations import ExpectedCase
from signer.documents import validate

ALICE, BOB, CAROL = "A" * 40, "B" * 40, "C" * 40


KEY = "'''\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n'''"


POLICY = """
[endorsements]
threshold = 2
max_age = "30d"
roles = { site-reviewer = 1 }
[vos]
allow = ["star", "cms"]
deny = ["cms"]
[images]
allow = ["star/*", "cms/*"]
deny = ["star/worker@0.9"]
[endorsers]
deny = []
[limits]
memory = "4GiB"
cores = 4
disk = "10GiB"
blank = "1GiB"
lifetime = "12h"
machines = 8
[user_data]
allow = ["cloud-config"]
[networks]
allow = ["user"]
"""


def anchors(*who: tuple[str, str]) -> str:
    return "".join(
        f'[[anchor]]\nvo = "star"\nrole = "{role}"\nfingerprint = "{fpr}"\nkey = {KEY}\n' for fpr, role in who
    )


TEAM = anchors((ALICE, "image-administrator"), (BOB, "image-administrator"), (CAROL, "site-reviewer"))


BOTH: list[dict[str, Any]] = [{"by": ALICE}, {"by": CAROL, "role": "site-reviewer"}]


def rules(tmp_path: Path, text: str = POLICY + TEAM, cedar: str = "") -> RuleSet:
    if cedar:
        (tmp_path / "site.cedar").write_text(cedar)
        text += '[cedar]\nfiles = ["site.cedar"]\n'
    (tmp_path / "policy.toml").write_text(text)
    return RuleSet.load(tmp_path / "policy.toml")


def case(**values: Any) -> ExpectedCase:
    document = {"name": "a case", "image": "star/worker@1.0", "expect": "accepted", "endorsed": BOTH} | values
    return validate(ExpectedCase, document, "case")
