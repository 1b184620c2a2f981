"""Bearer tokens: who made one, and whether the signature is theirs. The only door to the library that reads them.

Nothing that a token says is believed before its signature holds, but for one thing: whose keys to look it up in, and
that only among the issuers of the site's own file. Sources: RFC 7519, RFC 7515, RFC 8725 (best practices), WLCG Common
JWT Profile.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jwt

from deployer.errors import NotAuthenticated
from deployer.site.auth.claims import read_claims
from deployer.site.auth.issuers import Issuers
from deployer.site.auth.jwks import IssuerKeys
from deployer.site.model.principal import Principal

MAX_TOKEN = 16 << 10
"""Characters. Grids' tokens have one or two thousand, and most servers take 8 KiB of headers."""

MAX_KID = 255
"""Characters of a key's name."""

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
_NOTHING_ELSE: Any = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
    "enforce_minimum_key_length": True,
}
"""The library checks the signature, and that the key is no shorter than RFC 7518 allows; what the claims mean is read by our own rules, at the time that we are told."""


@dataclass(frozen=True)
class UnverifiedToken:
    """What a token says of itself; nobody has vouched for it."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def peek_token(text: str) -> UnverifiedToken:
    """Look into a token without believing it; NotAuthenticated if it is none."""
    if len(text) > MAX_TOKEN:
        raise NotAuthenticated(f"the token has {len(text)} characters, more than the {MAX_TOKEN} allowed")
    if not _FORM.fullmatch(text):
        raise NotAuthenticated("the bearer token is not a signed JWT")
    try:
        found = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as exc:
        raise NotAuthenticated("the bearer token is not a readable signed JWT") from exc
    return UnverifiedToken(found["header"], found["payload"])


def verify_token(text: str, issuers: Issuers, audience: str, now: datetime, keys: IssuerKeys) -> Principal:
    """Whom a token speaks for.

    Args:
        text: the token.
        issuers: whom the site believes.
        audience: what the site is called.
        now: aware, UTC.
        keys: of the issuers.

    Raises:
        NotAuthenticated: it does not count; says why, which is for the log alone.
        SiteUnavailable: its issuer is believed, and the issuer's keys cannot be had.
    """
    seen = peek_token(text)
    issuer = issuers.find(seen.claims.get("iss"))
    if issuer is None:
        raise NotAuthenticated(f"the issuer {_shown(seen.claims.get('iss'))} is not trusted here")
    algorithm, kid = seen.header.get("alg"), seen.header.get("kid")
    if algorithm not in issuer.algorithms:
        raise NotAuthenticated(f"tokens of {issuer.issuer} signed with {_shown(algorithm)} do not count")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID:
        raise NotAuthenticated("the token does not name the key that it is signed with")
    if "crit" in seen.header:
        raise NotAuthenticated("the token demands that something is understood that is not")
    key = keys.key(issuer.issuer, kid)
    if key is None:
        raise NotAuthenticated(f"{issuer.issuer} has no key {_shown(kid)}")
    _check_key(key, algorithm)
    try:
        claims = jwt.decode(
            text, jwt.PyJWK(dict(key), algorithm=algorithm), algorithms=[algorithm], options=_NOTHING_ELSE
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
        raise NotAuthenticated(
            f"the signature of the token is not that of the key {_shown(kid)} of {issuer.issuer}"
        ) from exc
    return read_claims(claims, issuer, audience, now)


def _check_key(key: Mapping[str, Any], algorithm: str) -> None:
    """Whether a key is one for that algorithm: a key's own kind decides, never the token (RFC 8725, section 3.1)."""
    family = _FAMILIES[algorithm[:2]]
    fits = key.get("kty") == family and key.get("alg", algorithm) == algorithm
    fits = fits and key.get("use", "sig") == "sig" and "verify" in key.get("key_ops", ["verify"])
    if not fits or key.get("crv") != _CURVES.get(algorithm):
        raise NotAuthenticated(f"the key {_shown(key.get('kid'))} is not one for {algorithm}")


def _shown(text: object) -> str:
    """Something that a stranger said, fit for a log."""
    return ascii(text)[:200]
