"""Bearer tokens: their issuer and signature. The only door to the library that reads them (PyJWT).

Nothing in a token is trusted before its signature holds, but for one thing: the issuer whose keys to use, and
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
"""Characters of a key's ID."""

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
"""The library checks the signature, and that the key is no shorter than RFC 7518 allows; the claims are checked by
`claims.read_claims`, at the time that it is given."""


@dataclass(frozen=True)
class UnverifiedToken:
    """The content of a token, not verified."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def peek_token(text: str) -> UnverifiedToken:
    """Read a token without verifying it; NotAuthenticated if it is not a signed JWT."""
    if len(text) > MAX_TOKEN:
        raise NotAuthenticated(f"the token has {len(text)} characters; at most {MAX_TOKEN} are allowed")
    if not _FORM.fullmatch(text):
        raise NotAuthenticated("the bearer token is not a signed JWT")
    try:
        found = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as exc:
        raise NotAuthenticated("the bearer token is not a readable signed JWT") from exc
    return UnverifiedToken(found["header"], found["payload"])


def verify_token(text: str, issuers: Issuers, audience: str, now: datetime, keys: IssuerKeys) -> Principal:
    """The principal of a token.

    Args:
        text: the token.
        issuers: that the site trusts.
        audience: the site's name.
        now: aware, UTC.
        keys: of the issuers.

    Raises:
        NotAuthenticated: it is refused; the reason is for the log alone.
        SiteUnavailable: its issuer is trusted, and the issuer's keys are unavailable.
    """
    seen = peek_token(text)
    issuer = issuers.find(seen.claims.get("iss"))
    if issuer is None:
        raise NotAuthenticated(f"the issuer {_shown(seen.claims.get('iss'))} is not trusted here")
    algorithm, kid = seen.header.get("alg"), seen.header.get("kid")
    if algorithm not in issuer.algorithms:
        raise NotAuthenticated(f"tokens of {issuer.issuer} signed with {_shown(algorithm)} are not accepted")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID:
        raise NotAuthenticated("the token does not name the key that it is signed with")
    if "crit" in seen.header:
        raise NotAuthenticated("the token has a critical header (crit) that is not understood")
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
            f"the token's signature was not made by the key {_shown(kid)} of {issuer.issuer}"
        ) from exc
    return read_claims(claims, issuer, audience, now)


def _check_key(key: Mapping[str, Any], algorithm: str) -> None:
    """Check that a key is for that algorithm: the key's own type decides, never the token (RFC 8725, section 3.1)."""
    family = _FAMILIES[algorithm[:2]]
    fits = key.get("kty") == family and key.get("alg", algorithm) == algorithm
    fits = fits and key.get("use", "sig") == "sig" and "verify" in key.get("key_ops", ["verify"])
    if not fits or key.get("crv") != _CURVES.get(algorithm):
        raise NotAuthenticated(f"the key {_shown(key.get('kid'))} is not for {algorithm}")


def _shown(text: object) -> str:
    """Untrusted text, fit for a log."""
    return ascii(text)[:200]
