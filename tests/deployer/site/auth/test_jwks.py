"""Issuers' keys over real HTTPS: fetched once, kept, good while the issuer is down, and never from anybody else."""

import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployer.errors import NotAuthenticated, PolicyUnusable, SiteUnavailable
from deployer.site.auth import jwks
from deployer.site.auth.issuers import Issuer, Issuers
from deployer.site.auth.jwks import AGAIN, KEYS_FRESH_FOR, STALE, IssuerKeys
from deployer.site.auth.tokens import verify_token
from tests.support.site.token_issuer import AUDIENCE, Served, issuer, public_jwk

DISCOVERY = "/.well-known/openid-configuration"


class Clock:
    """A wall clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def sleep(self, time: timedelta) -> None:
        self.time += time


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with issuer(tmp_path / "tls") as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(served: Served, clock: Clock, tmp_path: Path) -> Iterator[IssuerKeys]:
    found = IssuerKeys(tmp_path / "keys", clock, served.authorities)
    yield found
    found.close()


def test_keys_are_fetched_once_and_kept(served: Served, keys: IssuerKeys, clock: Clock, tmp_path: Path) -> None:
    assert keys.key(served.url, "k1") == public_jwk(served.key, "k1")
    assert keys.key(served.url, "k1") is not None
    assert served.hits == {DISCOVERY: 1, "/jwks": 1}
    again = IssuerKeys(tmp_path / "keys", clock, served.authorities)
    assert again.key(served.url, "k1") == public_jwk(served.key, "k1")
    again.close()
    assert served.hits == {DISCOVERY: 1, "/jwks": 1}
    (file,) = (tmp_path / "keys").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_token_is_verified_with_a_key_over_https(served: Served, keys: IssuerKeys, clock: Clock) -> None:
    issuers = Issuers(issuer=(Issuer(issuer=served.url, vo="star"),))
    found = verify_token(served.signer.token(clock()), issuers, AUDIENCE, clock(), keys)
    assert (found.issuer, found.subject) == (served.url, "ann")
    old = served.signer
    served.rotate("k2")
    clock.sleep(AGAIN)
    assert verify_token(served.signer.token(clock()), issuers, AUDIENCE, clock(), keys).subject == "ann"
    with pytest.raises(NotAuthenticated, match="has no key 'k1'"):
        verify_token(old.token(clock()), issuers, AUDIENCE, clock(), keys)


def test_an_unknown_key_is_looked_for_once_a_minute(served: Served, keys: IssuerKeys, clock: Clock) -> None:
    assert keys.key(served.url, "k1") is not None
    for number in range(50):
        assert keys.key(served.url, f"made-up-{number}") is None
    assert served.hits["/jwks"] == 1
    clock.sleep(AGAIN)
    for number in range(50):
        assert keys.key(served.url, f"made-up-{number}") is None
    assert served.hits["/jwks"] == 2


def test_keys_are_fetched_again_when_they_are_old(served: Served, keys: IssuerKeys, clock: Clock) -> None:
    assert keys.key(served.url, "k1") is not None
    clock.sleep(KEYS_FRESH_FOR - timedelta(seconds=1))
    assert keys.key(served.url, "k1") is not None
    assert served.hits["/jwks"] == 1
    served.rotate("k2")
    clock.sleep(timedelta(seconds=1))
    assert keys.key(served.url, "k1") is None, "a key that the issuer has taken back"
    assert served.hits["/jwks"] == 2


def test_keys_are_good_for_days_while_the_issuer_is_down(served: Served, keys: IssuerKeys, clock: Clock) -> None:
    assert keys.key(served.url, "k1") is not None
    served.pages = {DISCOVERY: (503, b"")}
    clock.sleep(STALE - timedelta(seconds=1))
    assert keys.key(served.url, "k1") is not None
    assert keys.problems[served.url].endswith("answers 503")
    clock.sleep(timedelta(seconds=1))
    with pytest.raises(SiteUnavailable, match="cannot fetch the keys of the token"):
        keys.key(served.url, "k1")
    served.publish()
    clock.sleep(AGAIN)
    assert keys.key(served.url, "k1") is not None
    assert keys.problems == {}


def test_a_clock_that_was_set_back_does_not_keep_keys_for_ever(served: Served, keys: IssuerKeys, clock: Clock) -> None:
    assert keys.key(served.url, "k1") is not None
    served.rotate("k2")
    clock.sleep(timedelta(days=-30))
    assert keys.key(served.url, "k1") is None


def test_whoever_has_a_good_key_does_not_wait_for_somebody_elses_fetching(
    served: Served, keys: IssuerKeys, clock: Clock
) -> None:
    assert keys.key(served.url, "k1") is not None
    clock.sleep(KEYS_FRESH_FOR)
    lock = keys._lock(served.url)
    with lock:
        assert keys.key(served.url, "k1") is not None
    assert served.hits["/jwks"] == 1


def test_many_at_once_fetch_once(served: Served, keys: IssuerKeys) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(keys.key(served.url, "k1"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len([one for one in found if one]) == 16
    assert served.hits == {DISCOVERY: 1, "/jwks": 1}


def test_an_issuer_with_the_other_document(served: Served, keys: IssuerKeys) -> None:
    served.publish(well_known="oauth-authorization-server")
    assert keys.key(served.url, "k1") is not None


def test_secrets_and_nonsense_in_a_key_set_are_not_kept(served: Served, keys: IssuerKeys, tmp_path: Path) -> None:
    private = public_jwk(served.key, "k1") | {"d": "c2VjcmV0"}
    served.publish(private, {"kty": "oct", "kid": "k2", "k": "c2VjcmV0"}, {"kty": "RSA", "n": "AA"})
    assert keys.key(served.url, "k1") == public_jwk(served.key, "k1")
    assert keys.key(served.url, "k2") is None
    assert "c2VjcmV0" not in next((tmp_path / "keys").iterdir()).read_text()


def page(served: Served, path: str, body: object, status: int = 200) -> None:
    served.pages[path] = (status, body if isinstance(body, bytes) else json.dumps(body).encode())


BAD = [
    ("no documents", lambda s: s.pages.clear(), "answers 404"),
    ("a discovery document of another issuer", lambda s: page(s, DISCOVERY, {"issuer": "https://x"}), "another issuer"),
    ("no place of keys", lambda s: page(s, DISCOVERY, {"issuer": s.url}), "names no https jwks_uri"),
    (
        "keys without TLS",
        lambda s: page(s, DISCOVERY, {"issuer": s.url, "jwks_uri": "http://localhost/jwks"}),
        "names no https jwks_uri",
    ),
    (
        "keys in a file",
        lambda s: page(s, DISCOVERY, {"issuer": s.url, "jwks_uri": "file:///etc/passwd"}),
        "names no https jwks_uri",
    ),
    (
        "a place that is no URL",
        lambda s: page(s, DISCOVERY, {"issuer": s.url, "jwks_uri": "https://\x00"}),
        "cannot be fetched",
    ),
    ("a list", lambda s: page(s, DISCOVERY, []), "does not serve a JSON object"),
    ("no JSON", lambda s: page(s, DISCOVERY, b"<html>"), "is not JSON"),
    ("a redirection", lambda s: page(s, "/jwks", b"", 302), "answers 302"),
    ("an error", lambda s: page(s, "/jwks", b"", 500), "answers 500"),
    ("no keys", lambda s: page(s, "/jwks", {"keys": []}), "no asymmetric key"),
    ("keys that are a text", lambda s: page(s, "/jwks", {"keys": "x"}), "does not serve a key set"),
    ("a key that is a text", lambda s: page(s, "/jwks", {"keys": ["x"]}), "does not serve a key set"),
    ("keys that are shared secrets", lambda s: page(s, "/jwks", {"keys": [{"kty": "oct", "kid": "k1"}]}), "no asymm"),
    ("keys without names", lambda s: page(s, "/jwks", {"keys": [{"kty": "EC"}]}), "no asymmetric key"),
    ("too many keys", lambda s: s.publish(*({"kty": "EC", "kid": f"{n}"} for n in range(101))), "more than 100 keys"),
    ("too much", lambda s: page(s, "/jwks", b" " * (jwks.MAX_DOCUMENT + 1)), "sends more than 262144 bytes"),
    ("packed keys", lambda s: s.headers.update({"Content-Encoding": "gzip"}) or page(s, "/jwks", b"\x1f\x8b"), "UTF-8"),
]


@pytest.mark.parametrize(("what", "spoil", "reason"), BAD, ids=[row[0] for row in BAD])
def test_issuers_that_misbehave(what: str, spoil: object, reason: str, served: Served, keys: IssuerKeys) -> None:
    spoil(served)  # type: ignore[operator]
    with pytest.raises(SiteUnavailable):
        keys.key(served.url, "k1")
    assert reason in keys.problems[served.url]


def test_a_server_that_is_not_believed(served: Served, clock: Clock, tmp_path: Path) -> None:
    stranger = IssuerKeys(tmp_path / "keys", clock)  # by the CAs of this system
    with pytest.raises(SiteUnavailable):
        stranger.key(served.url, "k1")
    stranger.close()
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.problems[served.url]
    assert served.hits == {}


def test_a_server_with_another_name(served: Served, keys: IssuerKeys) -> None:
    with pytest.raises(SiteUnavailable):
        keys.key(served.url.replace("localhost", "127.0.0.1"), "k1")
    assert "mismatch" in next(iter(keys.problems.values()))


def test_an_answer_that_takes_for_ever(served: Served, clock: Clock, tmp_path: Path) -> None:
    served.drip = 0.05
    hurried = iter(range(0, 10_000, 6))
    keys = IssuerKeys(tmp_path / "keys", clock, served.authorities, clock=lambda: float(next(hurried)))
    with pytest.raises(SiteUnavailable):
        keys.key(served.url, "k1")
    keys.close()
    assert "takes more than 10 seconds" in keys.problems[served.url]


def test_authorities_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(PolicyUnusable, match="cannot read the CA"):
        IssuerKeys(tmp_path, lambda: datetime.now(UTC), tmp_path / "none.pem")


@pytest.mark.parametrize(
    "kept", [b"", b"{}", b"\xff", b'{"issuer":"https://x","fetched":"2026-11-22T12:00:00Z","keys":[]}']
)
def test_a_kept_file_that_is_spoilt_is_fetched_again(
    kept: bytes, served: Served, keys: IssuerKeys, clock: Clock, tmp_path: Path
) -> None:
    assert keys.key(served.url, "k1") is not None
    (file,) = (tmp_path / "keys").iterdir()
    file.write_bytes(kept)
    again = IssuerKeys(tmp_path / "keys", clock, served.authorities)
    assert again.key(served.url, "k1") is not None
    again.close()
    assert served.hits["/jwks"] == 2


def test_a_disk_that_cannot_be_written_keeps_nobody_out(served: Served, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keys = IssuerKeys(tmp_path / "file" / "keys", clock, served.authorities)
    assert keys.key(served.url, "k1") is not None
    keys.close()


def test_keys_of_different_issuers_are_kept_apart(served: Served, keys: IssuerKeys, tmp_path: Path) -> None:
    assert keys.key(served.url, "k1") is not None
    begun = time.monotonic()
    with pytest.raises(SiteUnavailable):
        keys.key("https://localhost:1", "k1")
    assert time.monotonic() - begun < 60
    assert len(os.listdir(tmp_path / "keys")) == 1  # noqa: PTH208 - only how many
