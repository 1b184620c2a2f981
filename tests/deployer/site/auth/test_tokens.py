"""Tokens: every rule of the profiles as a row, and every way to forge one."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from deployer.errors import NotAuthenticated
from deployer.site.auth.issuers import Issuer, Issuers
from deployer.site.auth.tokens import MAX_TOKEN, peek_token, verify_token
from deployer.site.model.principal import Capability, Principal
from tests.support.site.token_issuer import AUDIENCE, Held, Signer, public_jwk

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STAR = "https://tokens.star.example.org/"
KEY = ec.generate_private_key(ec.SECP256R1())
ANN = Signer(STAR, KEY)
READ, CREATE, MODIFY, CANCEL = Capability
ALL = frozenset(Capability)


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def trusting(**changes: Any) -> Issuers:
    return Issuers(issuer=(Issuer(issuer=STAR, vo="star", **changes),))


def verified(
    token: str, issuers: Issuers | None = None, *, audience: str = AUDIENCE, keys: Held | None = None
) -> Principal:
    return verify_token(token, issuers or trusting(), audience, NOW, keys or Held(public_jwk(KEY, "k1")))


def test_a_token_becomes_a_principal() -> None:
    found = verified(ANN.token(NOW))
    assert found == Principal(
        issuer=STAR, subject="ann", vo="star", groups=("/star", "/star/production"), means="token"
    )


SCITOKEN = {"wlcg__ver": None, "wlcg__groups": None, "ver": "scitoken:2.0"}
GOOD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("an audience among several", {"aud": ["https://else.org", AUDIENCE]}, {}),
    ("WLCG's audience for anybody", {"aud": "https://wlcg.cern.ch/jwt/v1/any"}, {}),
    ("WLCG's audience for anybody among several", {"aud": ["x", "https://wlcg.cern.ch/jwt/v1/any"]}, {}),
    ("no nbf", {"nbf": None}, {}),
    ("expired within the skew", {"iat": -3600, "exp": -59}, {}),
    ("issued a little ahead of our clock", {"iat": 59, "nbf": 59}, {}),
    ("good for as long as may be", {"exp": 6 * 3600}, {}),
    ("a later version of the profile", {"wlcg__ver": "1.1"}, {}),
    ("the longest subject", {"sub": "a" * 255}, {}),
    ("times with fractions", {"iat": 0.5, "exp": 3599.5}, {}),
    ("claims of other kinds", {"acr": "https://refeds.org/profile/mfa", "eduperson_assurance": ["x"]}, {}),
    ("no groups at all", {"wlcg__groups": None}, {"groups": ()}),
    (
        "an order of groups",
        {"wlcg__groups": ["/star/b", "/star/a", "/star"]},
        {"groups": ("/star/b", "/star/a", "/star")},
    ),
    ("groups twice", {"wlcg__groups": ["/star", "/star"]}, {"groups": ("/star",)}),
    ("a child is no parent", {"wlcg__groups": ["/star/a/b"]}, {"groups": ("/star/a/b",)}),
    ("every kind of character in a group", {"wlcg__groups": ["/star/9a_B.c-d"]}, {"groups": ("/star/9a_B.c-d",)}),
    ("groups of another VO do not count", {"wlcg__groups": ["/atlas/admins", "/starlight"]}, {"groups": ()}),
    ("scopes that are no capabilities", {"scope": "openid offline_access wlcg.groups:/star"}, {"capabilities": None}),
    ("a capability", {"scope": "compute.create"}, {"capabilities": {CREATE}}),
    (
        "capabilities beside other scopes",
        {"scope": "openid compute.read  compute.cancel compute.modify"},
        {"capabilities": {READ, CANCEL, MODIFY}},
    ),
    ("a storage capability, which is none here", {"scope": "storage.read:/"}, {"capabilities": set()}),
    ("a capability restricted by what nobody knows", {"scope": "compute.create:/x"}, {"capabilities": set()}),
    ("a capability that nobody knows", {"scope": "compute.own"}, {"capabilities": set()}),
    ("a storage capability that nobody knows", {"scope": "storage.own"}, {"capabilities": set()}),
    ("a capability in capitals is none", {"scope": "COMPUTE.CREATE"}, {"capabilities": None}),
    ("a SciToken to have work run", SCITOKEN | {"scope": "execute"}, {"capabilities": ALL, "groups": ()}),
    ("a SciToken to hand work in", SCITOKEN | {"scope": "queue"}, {"capabilities": ALL}),
    ("a SciToken for storage", SCITOKEN | {"scope": "read:/a write:/b"}, {"capabilities": set()}),
    ("a SciToken for nothing", SCITOKEN, {"capabilities": set()}),
    ("a SciToken for anybody", SCITOKEN | {"aud": "ANY"}, {}),
    ("groups in a SciToken are none", SCITOKEN | {"wlcg__groups": ["/star"]}, {"groups": ()}),
]


def shifted(changes: dict[str, Any]) -> dict[str, Any]:
    """Times in a table are seconds from now."""
    return {
        name: NOW.timestamp() + value
        if name in {"iat", "nbf", "exp"} and isinstance(value, int | float) and not isinstance(value, bool)
        else value
        for name, value in changes.items()
    }


@pytest.mark.parametrize(("what", "changes", "expected"), GOOD, ids=[row[0] for row in GOOD])
def test_tokens_that_count(what: str, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = verified(ANN.token(NOW, **shifted(changes)), trusting(profiles=("wlcg", "scitokens")))
    for name, value in expected.items():
        assert getattr(found, name) == (frozenset(value) if isinstance(value, set) else value)


BAD: list[tuple[str, dict[str, Any], str]] = [
    *((f"no {name}", {name: None}, f"lacks the claim {name}") for name in ("sub", "aud", "exp", "iat", "jti")),
    ("no issuer", {"iss": None}, "issuer None is not trusted"),
    ("no version", {"wlcg__ver": None}, "neither wlcg.ver nor ver"),
    ("a version that is a number", {"wlcg__ver": 1.0}, "wlcg.ver is not 1.x"),
    ("another version", {"wlcg__ver": "2.0"}, "wlcg.ver is not 1.x"),
    ("a version with more behind it", {"wlcg__ver": "1.0\n"}, "wlcg.ver is not 1.x"),
    ("a SciToken of the first kind", SCITOKEN | {"ver": "scitoken:1.0"}, "ver is not scitoken:2.x"),
    ("a SciToken of no version", SCITOKEN | {"ver": None}, "neither"),
    ("another audience", {"aud": "https://else.org"}, "audience is https://else.org"),
    ("the audience in capitals", {"aud": AUDIENCE.upper()}, "audience is HTTPS"),
    ("the audience with a slash", {"aud": AUDIENCE + "/"}, "audience is"),
    ("the beginning of the audience", {"aud": AUDIENCE[:-1]}, "audience is"),
    ("an empty audience", {"aud": ""}, "audience is"),
    ("no audience in the list", {"aud": []}, "aud is neither"),
    ("a list with something else in it", {"aud": [AUDIENCE, 1]}, "aud is neither"),
    ("an audience that is an object", {"aud": {AUDIENCE: 1}}, "aud is neither"),
    ("SciTokens' anybody in a WLCG token", {"aud": "ANY"}, "audience is ANY"),
    ("WLCG's anybody in a SciToken", SCITOKEN | {"aud": "https://wlcg.cern.ch/jwt/v1/any"}, "audience is https://wlcg"),
    ("expired", {"iat": -3600, "exp": -60}, "has expired"),
    ("issued in the future", {"iat": 61, "nbf": None}, "not valid yet"),
    ("not valid yet", {"nbf": 61}, "not valid yet"),
    ("good for too long", {"exp": 6 * 3600 + 1}, "more than the 21600"),
    ("ended before it began", {"exp": -1}, "ends before it begins"),
    ("a time that is a text", {"exp": "tomorrow"}, "exp is not a valid time"),
    ("a time that is true", {"iat": True}, "iat is not a valid time"),
    ("a time without end", {"exp": 1e300}, "exp is not a valid time"),
    ("an empty subject", {"sub": ""}, "sub is not"),
    ("a subject that is too long", {"sub": "a" * 256}, "sub is not"),
    ("a subject with a line break", {"sub": "ann\nbob"}, "sub is not"),
    ("a subject beyond ASCII", {"sub": "änn"}, "sub is not"),
    ("a subject that is a number", {"sub": 7}, "sub is not"),
    ("an empty jti", {"jti": ""}, "jti is not a string"),
    ("a jti that is a number", {"jti": 7}, "jti is not a string"),
    ("groups that are a text", {"wlcg__groups": "/star"}, "wlcg.groups is not a list"),
    ("a group that is none", {"wlcg__groups": ["star"]}, "contains an invalid group"),
    ("a group with an empty name", {"wlcg__groups": ["/star//a"]}, "contains an invalid group"),
    ("a group that goes up", {"wlcg__groups": ["/star/.."]}, "contains an invalid group"),
    ("a group with a role of VOMS", {"wlcg__groups": ["/star/Role=admin"]}, "contains an invalid group"),
    ("a group that is a number", {"wlcg__groups": [7]}, "contains an invalid group"),
    ("too many groups", {"wlcg__groups": ["/a"] * 1001}, "not a list of at most 1000"),
    ("scopes that are a list", {"scope": ["compute.create"]}, "scope is not a string"),
    ("a storage capability without a path", {"scope": "storage.read"}, "scope storage.read has no path"),
    ("a storage capability with an empty path", {"scope": "storage.read:"}, "has no path"),
    ("a storage capability with a relative path", {"scope": "storage.modify:foo"}, "has no path"),
    ("a SciToken's storage without a path", SCITOKEN | {"scope": "write"}, "scope write has no path"),
    ("too many scopes", {"scope": "a " * 1001}, "more than 1000 scopes"),
    ("another issuer", {"iss": "https://evil.example.org/"}, "is not trusted here"),
    ("the issuer without its slash", {"iss": STAR[:-1]}, "is not trusted here"),
    ("the issuer in a list", {"iss": [STAR]}, "is not trusted here"),
]


@pytest.mark.parametrize(("what", "changes", "reason"), BAD, ids=[row[0] for row in BAD])
def test_tokens_that_do_not_count(what: str, changes: dict[str, Any], reason: str) -> None:
    claims = ANN.claims(NOW, **shifted(changes))
    text = jwt.api_jws.encode(json.dumps(claims).encode(), KEY, "ES256", headers={"kid": "k1"})
    with pytest.raises(NotAuthenticated, match=reason):
        verified(text, trusting(profiles=("wlcg", "scitokens")))


def test_nobodys_keys_are_asked_for_before_the_issuer_is_found() -> None:
    keys = Held(public_jwk(KEY, "k1"))
    with pytest.raises(NotAuthenticated, match="not trusted"):
        verified(ANN.token(NOW, iss="https://169.254.169.254/"), keys=keys)
    assert keys.asked == []


def _other(token: str, index: int, change: Callable[[dict[str, Any]], object]) -> str:
    """A token with another header (0) or other claims (1), and the old signature."""
    parts = token.split(".")
    data = json.loads(base64.urlsafe_b64decode(parts[index] + "=="))
    change(data)
    parts[index] = base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()
    return ".".join(parts)


def _hmac_with_the_public_key() -> str:
    """The classic: the verifier's public key taken for a shared secret."""
    pem = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"k1"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(ANN.claims(NOW)).encode()).rstrip(b"=")
    made = hmac.HMAC(pem, hashes.SHA256())
    made.update(head + b"." + body)
    return b".".join((head, body, base64.urlsafe_b64encode(made.finalize()).rstrip(b"="))).decode()


OTHER = Signer(STAR, ec.generate_private_key(ec.SECP256R1()))
FORGED: list[tuple[str, Callable[[], str], str]] = [
    ("signed with another key", lambda: OTHER.token(NOW), "signature"),
    (
        "another subject under the same signature",
        lambda: _other(ANN.token(NOW), 1, lambda c: c.update(sub="bob")),
        "sig",
    ),
    ("no signature", lambda: ANN.token(NOW).rpartition(".")[0] + ".", "not a signed JWT"),
    ("a signature of nothing", lambda: ANN.token(NOW).rpartition(".")[0] + ".AAAA", "signature"),
    ("no algorithm", lambda: _other(ANN.token(NOW), 0, lambda h: h.update(alg="none")), "signed with 'none'"),
    ("no algorithm, in capitals", lambda: _other(ANN.token(NOW), 0, lambda h: h.update(alg="NONE")), "'NONE'"),
    (
        "an algorithm that is a list",
        lambda: _other(ANN.token(NOW), 0, lambda h: h.update(alg=["ES256"])),
        "signed with",
    ),
    ("the public key as a shared secret", _hmac_with_the_public_key, "signed with 'HS256'"),
    ("an algorithm that is not allowed", lambda: Signer(STAR, rsa_key(), algorithm="PS256").token(NOW), "'PS256'"),
    (
        "the algorithm of another key",
        lambda: Signer(STAR, rsa_key(), algorithm="RS256").token(NOW),
        "not for RS256",
    ),
    ("no name of a key", lambda: ANN.token(NOW, header={"kid": None}), "does not name the key"),
    ("an empty name of a key", lambda: ANN.token(NOW, header={"kid": ""}), "does not name the key"),
    ("a very long name of a key", lambda: ANN.token(NOW, header={"kid": "k" * 256}), "does not name the key"),
    ("a key that is not there", lambda: ANN.token(NOW, header={"kid": "../k1"}), "has no key '../k1'"),
    (
        "something critical",
        lambda: _other(ANN.token(NOW), 0, lambda h: h.update(crit=["b64"], b64=True)),
        "critical header",
    ),
    (
        "the forger's own key in the header",
        lambda: OTHER.token(NOW, header={"jwk": public_jwk(OTHER.key, "k1"), "jku": "https://evil.example.org/"}),
        "signature",
    ),
    ("nothing", str, "not a signed JWT"),
    ("two parts", lambda: "a.b", "not a signed JWT"),
    ("five parts, as an encrypted one has", lambda: "a.b.c.d.e", "not a signed JWT"),
    ("something that is not base64", lambda: "a!.b.c", "not a signed JWT"),
    ("a header that is no JSON", lambda: "YQ.YQ.YQ", "not a readable signed JWT"),
    (
        "claims that are a list",
        lambda: jwt.api_jws.encode(b"[]", KEY, "ES256", headers={"kid": "k1"}),
        "not a readable signed JWT",
    ),
    ("a line break behind it", lambda: ANN.token(NOW) + "\n", "not a signed JWT"),
    ("more than anybody needs", lambda: ANN.token(NOW, pad="x" * MAX_TOKEN), "at most 16384"),
    (
        "a header nested too deep",
        lambda: f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.YQ.YQ",
        "not a readable signed JWT",
    ),
]


@pytest.mark.parametrize(("what", "token", "reason"), FORGED, ids=[row[0] for row in FORGED])
def test_forged_tokens(what: str, token: Callable[[], str], reason: str) -> None:
    with pytest.raises(NotAuthenticated, match=reason):
        verified(token())


def test_every_algorithm_that_may_be_allowed_works_and_is_refused_until_it_is() -> None:
    keys = {
        "RS": rsa_key(),
        "PS": rsa_key(),
        "ES256": KEY,
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    for algorithm in ("RS256", "ES256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES384", "ES512", "EdDSA"):
        key = keys.get(algorithm, keys.get(algorithm[:2]))
        assert key is not None
        token = Signer(STAR, key, algorithm=algorithm).token(NOW)
        held = Held(public_jwk(key, "k1"))
        assert verified(token, trusting(algorithms=(algorithm,)), keys=held).subject == "ann"
        if algorithm not in {"RS256", "ES256"}:
            with pytest.raises(NotAuthenticated, match="are not accepted"):
                verified(token, keys=held)


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"alg": "ES384"},
        {"crv": "P-384"},
        {"kty": "RSA"},
        {"kty": "oct", "k": "AA"},
    ],
)
def test_a_key_that_is_for_something_else_verifies_nothing(members: dict[str, Any]) -> None:
    with pytest.raises(NotAuthenticated, match="is not for ES256"):
        verified(ANN.token(NOW), keys=Held(public_jwk(KEY, "k1", **members)))


def test_a_short_key_verifies_nothing() -> None:
    weak = rsa_key(1024)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = Signer(STAR, weak, algorithm="RS256").token(NOW)
    with pytest.raises(NotAuthenticated, match="signature"):
        verified(token, keys=Held(public_jwk(weak, "k1")))


def test_a_key_that_is_nonsense_verifies_nothing() -> None:
    with pytest.raises(NotAuthenticated, match="signature"):
        verified(ANN.token(NOW), keys=Held({"kid": "k1", "kty": "EC", "crv": "P-256", "x": 7, "y": "AA"}))


def test_an_issuer_may_be_believed_less() -> None:
    anybody = ANN.token(NOW, aud="https://wlcg.cern.ch/jwt/v1/any")
    with pytest.raises(NotAuthenticated, match="audience is"):
        verified(anybody, trusting(any_audience=False))
    with pytest.raises(NotAuthenticated, match="profile scitokens"):
        verified(ANN.token(NOW, **SCITOKEN))
    with pytest.raises(NotAuthenticated, match="more than the 600"):
        verified(ANN.token(NOW), trusting(max_lifetime="10m"))
    assert verified(ANN.token(NOW, aud="https://old.example.org"), trusting(audiences=("https://old.example.org",)))


def test_a_site_without_a_name_is_nobodys_audience() -> None:
    with pytest.raises(NotAuthenticated, match="not this site"):
        verified(ANN.token(NOW, aud=""), audience="")


def test_looking_into_a_token_believes_nothing() -> None:
    seen = peek_token(OTHER.token(NOW, sub="bob"))
    assert seen.claims["sub"] == "bob"
    assert seen.header["kid"] == "k1"


def test_the_clock_is_an_argument() -> None:
    token = ANN.token(NOW)
    later = NOW + timedelta(hours=2)
    with pytest.raises(NotAuthenticated, match="has expired"):
        verify_token(token, trusting(), AUDIENCE, later, Held(public_jwk(KEY, "k1")))
