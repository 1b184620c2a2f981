"""Policies: strict reading, keys, digests, warnings, patterns; the samples and their vocabulary."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from catalog.image.address import Address
from deployer.errors import PolicyUnusable
from deployer.machine.user_data import USER_DATA_KINDS
from deployer.policy.anchors import MAX_KEY, anchor_block
from deployer.policy.decision import Request
from deployer.policy.model import MAX_POLICY, Policy
from tests.support.factories import manifest
from tests.support.node.policy_texts import ANCHOR, ARMORED, FPR, parse, toml
from tests.support.node.policy_values import decide, load_policy

ROOT = Path(__file__).parents[3]
IMAGE = manifest([Address(bytes(32), 4096)])


def test_everything_that_a_policy_can_say() -> None:
    policy = parse(
        ANCHOR
        + """
        [endorsements]
        threshold = 2
        max_age = "30d"
        roles = { site-reviewer = 1 }
        [endorsements.vo.star]
        threshold = 1
        [vos]
        allow = ["star", "alice-*"]
        deny = ["eve"]
        [images]
        allow = ["star/*", "*/base@1.*"]
        deny = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]
        [endorsers]
        deny = ["89ABCDEF0123456789ABCDEF0123456789ABCDEF"]
        [limits]
        memory = "4GiB"
        cores = 4
        disk = "50GiB"
        blank = "20GiB"
        lifetime = "12h"
        machines = 8
        [user_data]
        allow = ["cloud-config"]
        [networks]
        allow = ["user", "bridge:br0"]
        """
    )

    assert (policy.limits.memory, policy.limits.lifetime, policy.limits.machines) == (4 << 30, 43200, 8)
    assert policy.quorum("alice-1").roles == {"site-reviewer": 1}
    assert (policy.quorum("star").threshold, policy.quorum("star").roles) == (1, {})
    (anchor,) = policy.anchors
    assert (anchor.vo, anchor.role, anchor.fingerprint, anchor.key) == (
        "star",
        "image-administrator",
        FPR,
        ARMORED.encode(),
    )


REFUSED = [
    ("no TOML", "limits", r"\$: is not TOML"),
    ("an unknown table", "[limit]\nmemory='1GiB'", r"\$\.limit: is not known here"),
    ("a misspelt name", "[vos]\nalow=['*']", r"\$\.vos\.alow: is not known here"),
    ("a misspelt name in a VO's own quorum", "[endorsements.vo.star]\nage='1d'", r"\$\.endorsements\.vo\.star\.age: is not"),
    ("a name twice", "[limits]\ncores=1\ncores=2", r"\$: is not TOML"),
    ("a size without a unit", "[limits]\nmemory=4", r"\$\.limits\.memory: '4' is not a size"),
    ("a size in decimal units", "[limits]\ndisk='4GB'", r"\$\.limits\.disk: '4GB' is not a size"),
    ("a negative count", "[limits]\ncores=-1", r"\$\.limits\.cores"),
    ("a count that is a text", "[limits]\ncores='4'", r"\$\.limits\.cores"),
    ("a count that is true", "[limits]\nmachines=true", r"\$\.limits\.machines"),
    ("a threshold of nobody", "[endorsements]\nthreshold=0", r"\$\.endorsements\.threshold"),
    ("a role of which nobody is needed", "[endorsements]\nroles={reviewer=0}", r"\$\.endorsements\.roles\.reviewer"),
    ("a role in capitals", "[endorsements]\nroles={Reviewer=1}", r"\$\.endorsements\.roles"),
    ("an age without a unit", "[endorsements]\nmax_age=30", r"\$\.endorsements\.max_age: '30' is not a duration"),
    ("a VO that is a path", "[vos]\nallow=['../x']", r"\$\.vos\.allow\[0\]"),
    ("a VO with a character class", "[vos]\ndeny=['[a-z]']", r"\$\.vos\.deny\[0\]"),
    ("a list that is a text", "[vos]\nallow='*'", r"\$\.vos\.allow"),
    ("an image without a VO", "[images]\nallow=['worker']", r"\$\.images\.allow\[0\]: 'worker' is not an image ID"),
    ("a shortened image ID", "[images]\ndeny=['sha256:00']", r"\$\.images\.deny\[0\]"),
    ("a short key id", "[endorsers]\ndeny=['0123ABCD']", r"\$\.endorsers\.deny\[0\]: .* fingerprint"),
    ("a fingerprint in lower case", f"[endorsers]\ndeny=['{FPR.lower()}']", r"in capitals"),
    ("user-data of no kind", "[user_data]\nallow=['any']", r"\$\.user_data\.allow\[0\]"),
    ("a network of no kind", "[networks]\nallow=['*']", r"\$\.networks\.allow\[0\]: '\*' is not user, network:NAME"),
    ("an anchor without a key", f"[[anchor]]\nvo='s'\nrole='r'\nfingerprint='{FPR}'", r"\$\.anchor\[0\]\.key: is missing"),
    ("an anchor for a pattern of VOs", ANCHOR.replace("'star'", "'*'"), r"\$\.anchor\[0\]\.vo"),
    ("an anchor twice", ANCHOR + ANCHOR, r"is listed twice"),
    ("a key file where there are none", ANCHOR.replace("'''\n" + ARMORED + "'''", "'star.asc'"), r"not read from one"),
    ("a private key", ANCHOR.replace("PUBLIC", "PRIVATE"), r"\$\.anchor\[0\]\.key: is not an armored OpenPGP public key"),
    ("a key with more after it", ANCHOR.replace("BLOCK-----\n'''", "BLOCK-----\nx'''"), r"is not an armored"),
    ("a key with an escape", ANCHOR.replace("mDME", "\u00e9"), r"no armored key has"),
    ("far too much", "#" * (MAX_POLICY + 1), r"more than the 4194304 allowed"),
    ("nested without end", "a=" + "[" * 5000, r"policy p\.toml"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "text", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_no_policy_is_refused_with_its_place(sentence: str, text: str, says: str) -> None:
    with pytest.raises(PolicyUnusable, match=says) as caught:
        parse(text)
    assert str(caught.value).startswith("policy p.toml: ")


def test_an_empty_policy_is_one_and_accepts_nothing() -> None:
    policy = parse("")

    assert policy == Policy()
    assert not policy.trusted("star")
    assert "nothing will be accepted" in " ".join(policy.warnings())


def test_key_files_are_looked_for_beside_the_policy(tmp_path: Path) -> None:
    inside = tmp_path / "inside.toml"
    inside.write_text(ANCHOR)
    beside = tmp_path / "beside.toml"
    beside.write_text(ANCHOR.replace("'''\n" + ARMORED + "'''", "'keys/star.asc'"))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "star.asc").write_bytes(ARMORED.replace("\n", "\r\n").encode())

    assert load_policy(beside) == load_policy(inside)
    assert load_policy(beside).digest == load_policy(inside).digest


@pytest.mark.parametrize(
    ("sentence", "content", "says"),
    [
        ("no such file", None, "cannot be read: No such file"),
        ("a huge file", b"x" * (MAX_KEY + 1), "more than the 1048576 bytes"),
        ("a binary key", b"\x99\x01\x0d", "is not an armored"),
        ("an empty file", b"", "is not an armored"),
    ],
)
def test_a_key_file_that_cannot_serve(tmp_path: Path, sentence: str, content: bytes | None, says: str) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text(ANCHOR.replace("'''\n" + ARMORED + "'''", "'star.asc'"))
    if content is not None:
        (tmp_path / "star.asc").write_bytes(content)

    with pytest.raises(PolicyUnusable, match=rf"p\.toml: \$\.anchor\[0\]\.key: .*{says}"):
        load_policy(policy)


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyUnusable, match=r"none\.toml: cannot be read: No such file"):
        load_policy(tmp_path / "none.toml")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(ANCHOR.replace("'''\n" + ARMORED + "'''", '"a\\u0000b"'))

    with pytest.raises(PolicyUnusable, match="cannot be read"):
        load_policy(tmp_path / "p.toml")


def test_the_digest_covers_every_rule_and_every_key() -> None:
    texts = [
        "",
        ANCHOR,
        ANCHOR.replace("=2Ypd", "=2Ypx"),
        "[limits]\ncores=1",
        "[vos]\nallow=['*']",
        "[vos]\ndeny=['*']",
        "[endorsements]\nthreshold=2",
        "[endorsements.vo.star]\nthreshold=2",
    ]
    digests = [parse(text).digest for text in texts]

    assert len(set(digests)) == len(texts)
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests)
    assert parse("# a comment\n[limits]\nmemory = '1024MiB'").digest == parse("limits.memory='1GiB'").digest


COMPLETE = ANCHOR + (
    "[vos]\nallow=['*']\n[images]\nallow=['*/*']\n"
    "[limits]\nmemory='1GiB'\ncores=1\ndisk='1GiB'\nblank='1GiB'\nlifetime='1h'\nmachines=1\n"
)


def test_a_policy_that_is_meant_has_no_warnings() -> None:
    assert parse(COMPLETE).warnings() == []


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (COMPLETE.replace(ANCHOR, ""), "no [[anchor]] is given: nothing will be accepted"),
        (COMPLETE + "[endorsements]\nthreshold=2", "star needs 2 endorsers and only 1 can count: nothing of it passes"),
        (
            COMPLETE + f"[endorsers]\ndeny=['{FPR}']",
            "star needs 1 endorsers and only 0 can count: nothing of it passes",
        ),
        (COMPLETE + "[endorsements]\nroles={reviewer=1}", "star needs 1 endorsers as reviewer and only 0 can count"),
        (COMPLETE.replace("['*']", "['atlas']"), "star has anchors but vos.allow does not name it"),
        (COMPLETE + "[endorsements.vo.atlas]", "endorsements.vo.atlas has no anchor"),
        (COMPLETE.replace("allow=['*/*']", ""), "images.allow is empty: nothing will be accepted"),
        (COMPLETE.replace("cores=1", ""), "limits.cores is 0: no machine will be accepted"),
    ],
)
def test_warnings(text: str, warning: str) -> None:
    assert parse(text).warnings() == [warning]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_policy_or_refused(data: bytes) -> None:
    try:
        said = str(Policy.parse(data, "policy").digest)
    except PolicyUnusable as refused:
        said = str(refused)
    assert said.startswith(("policy: ", "sha256:"))


VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["4GiB", "1d", "*/*", "star", FPR]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
TABLES = ["endorsements", "vos", "images", "endorsers", "limits", "user_data", "networks", "endorsements.vo.star"]
NAMES = [
    "threshold",
    "max_age",
    "roles",
    "allow",
    "deny",
    "memory",
    "cores",
    "disk",
    "blank",
    "lifetime",
    "machines",
    "vo",
]


@given(st.lists(st.tuples(st.sampled_from(TABLES), st.sampled_from(NAMES), VALUES), max_size=4))
def test_any_values_are_a_policy_or_refused(entries: list[tuple[str, str, object]]) -> None:
    """What is read is whole: it can be written, and decides."""
    try:
        policy = parse("\n".join(f"{table}.{name} = {toml(value)}" for table, name, value in entries))
    except PolicyUnusable:
        return
    assert policy.digest
    policy.warnings()


@pytest.mark.parametrize("name", ["development", "production"])
def test_a_sample_lacks_nothing_but_anchors(name: str) -> None:
    text = (ROOT / "policies" / f"{name}.toml").read_text()

    assert load_policy(ROOT / "policies" / f"{name}.toml").warnings() == [
        "no [[anchor]] is given: nothing will be accepted"
    ]
    with_anchors = text + "".join(
        anchor_block("star", role, fpr, ARMORED)
        for role, fpr in (("image-administrator", FPR), ("site-reviewer", FPR[::-1]))
    )
    assert parse(with_anchors).warnings() == []


def test_the_vocabulary_is_documented() -> None:
    """Every name that a policy may use, every rule of a decision and every kind of user-data stands in the README."""
    text = (ROOT / "policies" / "README.md").read_text()

    def names(model: type[BaseModel]) -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            found.add(name)
            for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    found |= names(inner)
        return found

    decision = decide(
        Policy(), Request.supposed(IMAGE.needs, memory=1, lifetime=1), IMAGE, [], datetime(2026, 11, 22, tzinfo=UTC)
    )
    missing = [
        name
        for name in (*names(Policy), *USER_DATA_KINDS, *(rule.name for rule in decision.rules))
        if not re.search(rf"[`\[.]{re.escape(name)}[`\].]", text)
    ]
    assert missing == []
