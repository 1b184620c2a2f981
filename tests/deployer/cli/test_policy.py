"""The policy commands, with real keys and real endorsements."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result

from catalog.errors import Misused
from catalog.image.bundle import Bundle
from deployer.cli.policy import policy_app
from deployer.errors import PolicyUnusable, UserDataRefused
from signer.errors import KeyUnusable
from signer.openpgp.keyring import Keyring
from signer.verification.endorsements import endorse
from signer.verification.signers import KeySigner
from tests.support.commands import CliRunner
from tests.support.factories import MIB, bundle
from tests.support.node.policy_values import load_policy

SAMPLES = Path(__file__).parents[3] / "policies"


@dataclass(frozen=True)
class Site:
    """A signed image, the key files of two people, and the first person's fingerprint."""

    image: Bundle
    alice: Path
    bob: Path
    fingerprint: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("site")
    keyring = Keyring(root / "keys")
    alice, bob = keyring.generate("Alice <alice@star.example>"), keyring.generate("Bob <bob@star.example>")
    for name, fingerprint in (("alice", alice), ("bob", bob)):
        (root / f"{name}.asc").write_bytes(keyring.export(fingerprint))
    image = bundle(root / "image", partitions=1, size=MIB)
    manifest = image.manifest
    image.add_endorsement(*endorse(KeySigner(keyring, alice), manifest.image_id, manifest.title, datetime.now(UTC)))
    return Site(image, root / "alice.asc", root / "bob.asc", alice)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(policy_app, [str(argument) for argument in arguments])


def output(*arguments: object) -> str:
    """What a command that succeeds prints."""
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.fixture
def policy(site: Site, tmp_path: Path) -> Path:
    """The development sample, with Alice appended: what a new user does on the first day."""
    path = tmp_path / "policy.toml"
    path.write_text((SAMPLES / "development.toml").read_text() + output("anchor", site.alice, "--vo", "star"))
    return path


def test_an_anchor_is_ready_to_append(site: Site, policy: Path) -> None:
    (anchor,) = load_policy(policy).anchor

    assert (anchor.vo, anchor.role, anchor.fingerprint) == ("star", "image-administrator", site.fingerprint)
    told = json.loads(output("anchor", site.alice, "--vo", "star", "--role", "site-reviewer", "--json"))
    assert (told["fingerprint"], told["role"]) == (site.fingerprint, "site-reviewer")
    assert "site-reviewer" in told["toml"]


def test_a_policy_that_is_meant_is_checked_without_warnings(policy: Path) -> None:
    told = json.loads(output("check", policy, "--json"))

    assert told == {"digest": load_policy(policy).digest, "warnings": []}
    assert "warning" not in output("check", policy)


def test_a_key_that_is_another_one_is_told(site: Site, policy: Path) -> None:
    policy.write_text(policy.read_text().replace(site.fingerprint, "A" * 40))

    assert f"is a different key, {site.fingerprint}: its signatures will not count" in output("check", policy)


def test_a_key_that_is_none_is_told(policy: Path) -> None:
    text = policy.read_text()
    head, _, rest = text.partition("BLOCK-----\n")
    policy.write_text(f"{head}BLOCK-----\n\nAAAA\n-----END{rest.partition('-----END')[2]}")

    assert "warning: the key of image-administrator" in output("check", policy)


def test_show_tells_everything(site: Site, policy: Path) -> None:
    told = json.loads(output("show", policy, "--json"))
    text = output("show", policy)

    assert told["limits"]["memory"] == 4 << 30
    assert told["anchor"][0]["fingerprint"] == site.fingerprint
    assert told["digest"] == load_policy(policy).digest
    for said in (site.fingerprint, "at least 1, not older than 365d", "4GiB memory", "12h lifetime", "cloud-config"):
        assert said in text


def test_an_endorsed_image_is_accepted(site: Site, policy: Path) -> None:
    arguments = ("explain", policy, "--bundle", site.image.root, "--network", "user", "--lifetime", "30m")
    told = json.loads(output(*arguments, "--json"))

    assert told["accepted"]
    assert f"endorsed by {site.fingerprint}" in output(*arguments)
    assert all(rule["passed"] for rule in told["rules"])


def test_a_refused_image_ends_with_3_and_all_reasons(site: Site, policy: Path) -> None:
    result = run("explain", policy, "--bundle", site.image.root, "--memory", "8GiB", "--count", 20, "--running", 1)

    assert result.exit_code == 3
    assert result.stdout.count("FAILED") == 2
    assert "-> ask for at most 4GiB of memory" in result.stdout
    assert "-> ask for at most 7 machines" in result.stdout


def test_somebody_elses_word_does_not_count(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text((SAMPLES / "development.toml").read_text() + output("anchor", site.bob, "--vo", "star"))

    result = run("explain", path, "--bundle", site.image.root, "--json")

    assert result.exit_code == 3
    (rule,) = [rule for rule in json.loads(result.stdout)["rules"] if not rule["passed"]]
    assert rule["name"] == "endorsements"
    assert f"{site.fingerprint} is not trusted as an endorser here" in rule["reason"]


@pytest.mark.parametrize("sample", ["development", "production"])
def test_a_sample_as_it_stands_refuses(site: Site, sample: str) -> None:
    result = run("explain", SAMPLES / f"{sample}.toml", "--bundle", site.image.root)

    assert result.exit_code == 3
    assert "no endorser is trusted for VO star" in result.stdout


def test_user_data_is_judged_by_its_kind(site: Site, policy: Path, tmp_path: Path) -> None:
    file = tmp_path / "user-data"
    for content, code in ((b"#cloud-config\na: 1\n", 0), (b"#!/bin/sh\n", 0), (b"#include http://x/\n", 3)):
        file.write_bytes(content)
        assert run("explain", policy, "--bundle", site.image.root, "--user-data", file).exit_code == code
    file.write_bytes(b"hello")
    assert isinstance(
        run("explain", policy, "--bundle", site.image.root, "--user-data", file).exception, UserDataRefused
    )
    missing = run("explain", policy, "--bundle", site.image.root, "--user-data", tmp_path / "none")
    assert isinstance(missing.exception, Misused)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--memory", "4", "is not a size such as"),
        ("--memory", "4GB", "is not a size such as"),
        ("--lifetime", "soon", "is not a duration such as"),
        ("--network", "bridge:", "write none, user, network:NAME or bridge:NAME"),
        ("--count", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_option_is_a_usage_error(site: Site, policy: Path, option: str, value: str, says: str) -> None:
    result = run("explain", policy, "--bundle", site.image.root, option, value)

    assert getattr(result.exception, "exit_code", result.exit_code) == 2  # `partita` exits with that of an error
    assert says in " ".join(f"{result.output} {result.exception}".replace("│", " ").split())


def test_keys_that_cannot_be_anchors(site: Site, tmp_path: Path) -> None:
    both = tmp_path / "both.asc"
    both.write_bytes(site.alice.read_bytes() + site.bob.read_bytes())
    big = tmp_path / "big.asc"
    big.write_bytes(b"x" * ((1 << 20) + 1))
    none = tmp_path / "none.asc"
    none.write_bytes(b"hello")

    assert isinstance(run("anchor", both, "--vo", "star").exception, PolicyUnusable)
    assert isinstance(run("anchor", big, "--vo", "star").exception, PolicyUnusable)
    assert isinstance(run("anchor", none, "--vo", "star").exception, KeyUnusable)
    assert isinstance(run("anchor", tmp_path / "absent.asc", "--vo", "star").exception, Misused)
    assert isinstance(run("anchor", site.alice, "--vo", "Star!").exception, PolicyUnusable)


def test_a_malformed_policy_ends_every_command(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[limit]\n")

    for command in (("check", path), ("show", path), ("explain", path, "--bundle", site.image.root)):
        result = run(*command)
        assert isinstance(result.exception, PolicyUnusable)
        assert "$.limit: is not known here" in str(result.exception)
