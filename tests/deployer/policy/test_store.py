"""The policy in force: reloaded when its files change, whole or not at all, and known by its digest."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.image.address import Address
from deployer.errors import PolicyUnusable
from deployer.policy.decision import Request
from deployer.policy.rules.rule import PolicyCase
from deployer.policy.store import PolicyStore, RuleSet
from tests.support.factories import manifest
from tests.support.node.policy_values import load_policy

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
IMAGE = manifest([Address.parse(f"{'ab' * 32}-4096"), Address.parse(f"{'cd' * 32}-65536")])
ARMORED = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"
ANCHOR = f'[[anchor]]\nvo = "star"\nrole = "image-administrator"\nfingerprint = "{"A" * 40}"\nkey = "star.asc"\n'
PERMIT = '@id("all") permit(principal, action, resource);'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A policy that names a key file, a Cedar file and a shadow."""
    (tmp_path / "star.asc").write_text(ARMORED)
    (tmp_path / "site.cedar").write_text(PERMIT)
    (tmp_path / "next.toml").write_text("[limits]\ncores = 9\n")
    file = tmp_path / "policy.toml"
    file.write_text(ANCHOR + '[limits]\ncores = 2\n[cedar]\nfiles = ["site.cedar"]\n[shadow]\npolicy = "next.toml"\n')
    return file


def test_a_set_is_read_whole(path: Path) -> None:
    rules = RuleSet.load(path)

    assert rules.policy.limits.cores == 2
    assert rules.policy.anchor[0].key == ARMORED
    assert rules.cedar is not None
    assert rules.shadow is not None
    assert rules.shadow.policy.limits.cores == 9
    request = Request.supposed(IMAGE.needs, memory=1 << 30, lifetime=60)
    decision = rules.decide(PolicyCase(rules.policy, request, IMAGE, (), NOW))
    assert decision.policy == rules.digest
    assert decision.rules[-1].name == "cedar-permit"


def test_without_cedar_the_digest_is_the_policys(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[limits]\ncores = 2\n")
    assert RuleSet.load(file).digest == load_policy(file).digest


CHANGES: list[tuple[str, Callable[[Path], object], bool]] = [
    ("a limit", lambda d: (d / "policy.toml").write_text((d / "policy.toml").read_text().replace("= 2", "= 3")), True),
    ("a key", lambda d: (d / "star.asc").write_text(ARMORED.replace("AAAA", "BBBB")), True),
    ("a Cedar rule", lambda d: (d / "site.cedar").write_text(PERMIT.replace("all", "any")), True),
    ("a comment in Cedar", lambda d: (d / "site.cedar").write_text(PERMIT + "// hm"), True),
    ("a comment in TOML", lambda d: (d / "policy.toml").write_text((d / "policy.toml").read_text() + "# hm\n"), False),
    ("the shadow", lambda d: (d / "next.toml").write_text("[limits]\ncores = 8\n"), False),
]


@pytest.mark.parametrize(("what", "change", "counts"), CHANGES, ids=[one[0] for one in CHANGES])
def test_the_digest_covers_what_decides(what: str, change: Callable[[Path], object], counts: bool, path: Path) -> None:
    loaded: list[str] = []
    store = PolicyStore(path, lambda rules: loaded.append(rules.digest))
    before = store.current().digest
    change(path.parent)
    after = store.current().digest

    assert (before != after) is counts, what
    assert loaded == ([before, after] if counts else [before])


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("no TOML", lambda d: (d / "policy.toml").write_text("[limits"), "is not TOML"),
    ("an unknown name", lambda d: (d / "policy.toml").write_text("[limit]\n"), "$.limit: is not known"),
    ("an empty key", lambda d: (d / "star.asc").write_text(""), "is not an armored OpenPGP public key"),
    ("no key file", lambda d: (d / "star.asc").unlink(), "star.asc' cannot be read"),
    ("no Cedar file", lambda d: (d / "site.cedar").unlink(), "site.cedar: cannot be read"),
    ("half a Cedar file", lambda d: (d / "site.cedar").write_text(PERMIT[:20]), "is not Cedar"),
    (
        "a misspelt attribute",
        lambda d: (d / "site.cedar").write_text(
            PERMIT + '@id("x") forbid(principal, action, resource) when { resource.v == "a" };'
        ),
        "`v`",
    ),
    ("an empty Cedar file", lambda d: (d / "site.cedar").write_text(""), "no Cedar rule permits"),
]


@pytest.mark.parametrize(("what", "change", "says"), BROKEN, ids=[one[0] for one in BROKEN])
def test_the_last_good_set_stays_in_force(what: str, change: Callable[[Path], object], says: str, path: Path) -> None:
    store = PolicyStore(path)
    good = store.current().digest
    whole = {file: file.read_bytes() for file in path.parent.iterdir()}
    change(path.parent)

    assert store.current().digest == good, what
    assert says in store.problem
    with pytest.raises(PolicyUnusable):
        RuleSet.load(path)
    for file, data in whole.items():
        file.write_bytes(data)
    assert store.current().digest == good
    assert store.problem == ""


def test_without_a_good_one_nothing_is_accepted(path: Path) -> None:
    path.with_name("site.cedar").write_text("permit(")
    with pytest.raises(PolicyUnusable, match="is not Cedar"):
        PolicyStore(path).current()


def test_a_policy_that_is_removed_is_no_longer_in_force(path: Path) -> None:
    store = PolicyStore(path)
    store.current()
    path.unlink()
    with pytest.raises(PolicyUnusable, match="acceptance policy not found, so nothing is accepted"):
        store.current()


def test_a_shadow_that_cannot_be_read_keeps_nothing_back(path: Path) -> None:
    path.with_name("next.toml").write_text("[limits")
    rules = PolicyStore(path).current()

    assert rules.shadow is None
    assert "next.toml: $: is not TOML" in rules.shadow_problem


def test_a_shadow_has_no_shadow(path: Path) -> None:
    path.with_name("next.toml").write_text('[shadow]\npolicy = "policy.toml"\n')
    shadow = RuleSet.load(path).shadow
    assert shadow is not None
    assert shadow.shadow is None


def test_half_a_file_never_comes_into_force(path: Path) -> None:
    """A writer that takes its time: what is read in between may be valid TOML and laxer than either."""
    text = path.read_text().replace("cores = 2", 'cores = 4\n[images]\nallow = ["*/*"]\ndeny = ["star/worker@1.0"]')
    half = text[: text.index("deny")]
    rests = [half + " ", text]

    def write_on(_: float) -> None:
        if rests:
            path.write_text(rests.pop(0))

    path.write_text(half)
    assert RuleSet.load(path).policy.images.deny == ()
    store = PolicyStore(path, sleep=write_on)

    assert store.current().policy.images.deny == ("star/worker@1.0",)
    assert not rests


def test_many_threads_see_one_policy(path: Path) -> None:
    store = PolicyStore(path)
    found: set[str] = set()
    threads = [threading.Thread(target=lambda: found.add(store.current().digest)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {RuleSet.load(path).digest}
