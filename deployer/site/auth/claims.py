"""The claims of a token whose signature holds: whether it counts here and now, and its principal. Pure.

Two profiles: the WLCG Common JWT Profile 1.x, and SciTokens 2.0. Both are read to the letter, and a token that deviates
is refused: a claim that is not understood may be the one that matters.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from deployer.errors import NotAuthenticated
from deployer.site.auth.issuers import Issuer
from deployer.site.model.principal import Capability, Group, Principal

SKEW = 60
"""Seconds by which an issuer's clock and ours may differ."""

MAX_GROUPS = 1000
"""Groups of one token, as many as a principal may have."""

MAX_SCOPES = 1000

ANY_AUDIENCE = {"wlcg": "https://wlcg.cern.ch/jwt/v1/any", "scitokens": "ANY"}
"""The audience of tokens that are for any service, by profile."""

REQUIRED = ("iss", "sub", "aud", "exp", "iat", "jti")

_SUBJECT = re.compile(r"[\x20-\x7e]{1,255}")
_WLCG_VERSION = re.compile(r"1\.[0-9]{1,4}")
_SCITOKEN_VERSION = re.compile(r"scitoken:2\.[0-9]{1,4}")
_GROUP = TypeAdapter(Group)

_SCITOKENS = frozenset({"queue", "execute"})
"""SciTokens has no finer capabilities for work than to submit it and to run it: both also let their holder manage the
resulting machines."""

_STORAGE = {
    "wlcg": frozenset({"storage.read", "storage.create", "storage.modify", "storage.stage"}),
    "scitokens": frozenset({"read", "write"}),
}


def read_claims(
    claims: Mapping[str, object], issuer: Issuer, audience: str, now: datetime, *, timely: bool = True
) -> Principal:
    """The principal of a token.

    Args:
        claims: of a token whose signature is the issuer's.
        issuer: its entry in the site's file.
        audience: this site's name; compared byte for byte.
        now: aware, UTC.
        timely: whether to check the time; an explanation may look at an old token.

    Raises:
        NotAuthenticated: the token is refused; names the rule that it breaks.
    """
    for name in REQUIRED:
        if name not in claims:
            raise NotAuthenticated(f"the token lacks the claim {name}")
    profile = _profile(claims, issuer)
    subject, token_id = claims["sub"], claims["jti"]
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise NotAuthenticated("the token's sub is not 1 to 255 printable ASCII characters")
    if not isinstance(token_id, str) or not token_id:
        raise NotAuthenticated("the token's jti is not a string")
    _check_audience(claims["aud"], issuer, audience, profile)
    _check_times(claims, issuer, now if timely else None)
    scopes = _scopes(claims)
    return Principal(
        issuer=issuer.issuer,
        subject=subject,
        vo=issuer.vo,
        groups=_groups(claims, issuer) if profile == "wlcg" else (),
        capabilities=capabilities(scopes, profile),
        means="token",
    )


def capabilities(scopes: Sequence[str], profile: str) -> frozenset[Capability] | None:
    """The capabilities for machines in scopes; None where they hold no capability at all, so that groups count.

    A capability for storage allows nothing here, and still is one: such a token's groups do not count.
    SciTokens have nothing but capabilities: one without any allows nothing.

    Raises:
        NotAuthenticated: a storage capability without a path, for which the profile refuses the whole token.
    """
    found: set[Capability] = set()
    some = profile == "scitokens"
    for scope in scopes:
        name, colon, path = scope.partition(":")
        if name in _STORAGE[profile]:
            some = True
            if not path.startswith("/"):
                raise NotAuthenticated(f"the token's scope {name} has no path")
        elif profile == "wlcg" and name.startswith("compute."):
            some = True
            # A capability with an undefined restriction is not the unrestricted one.
            found |= {each for each in Capability if not colon and each == name}
        elif profile == "wlcg" and name.startswith("storage."):
            some = True
        elif profile == "scitokens" and not colon and name in _SCITOKENS:
            found |= set(Capability)
    return frozenset(found) if some else None


def permits(scopes: Sequence[str], operation: str, path: str) -> bool:
    """Whether scopes allow an operation on a path: `storage.read:/foo` is for /foo and everything below it.

    Paths are compared name by name, so that /foo/bar is not /foo/bargain; one with `..` or empty names is never allowed.

    Args:
        scopes: of a token.
        operation: such as `storage.read`, or `read` with SciTokens.
        path: absolute.
    """
    wanted = _names(path)
    if wanted is None:
        return False
    for scope in scopes:
        name, _, allowed = scope.partition(":")
        if name == operation and (start := _names(allowed)) is not None and wanted[: len(start)] == start:
            return True
    return False


def _names(path: str) -> tuple[str, ...] | None:
    if not path.startswith("/"):
        return None
    names = tuple(path[1:].removesuffix("/").split("/")) if path != "/" else ()
    return None if any(name in {"", ".", ".."} or "%" in name for name in names) else names


def _profile(claims: Mapping[str, object], issuer: Issuer) -> str:
    version, other = claims.get("wlcg.ver"), claims.get("ver")
    if version is not None:
        if not isinstance(version, str) or not _WLCG_VERSION.fullmatch(version):
            raise NotAuthenticated("the token's wlcg.ver is not 1.x")
        profile = "wlcg"
    elif other is not None:
        if not isinstance(other, str) or not _SCITOKEN_VERSION.fullmatch(other):
            raise NotAuthenticated("the token's ver is not scitoken:2.x")
        profile = "scitokens"
    else:
        raise NotAuthenticated("the token has neither wlcg.ver nor ver, so its profile is unknown")
    if profile not in issuer.profiles:
        raise NotAuthenticated(f"tokens with the profile {profile} from {issuer.issuer} are not accepted here")
    return profile


def _check_audience(found: object, issuer: Issuer, audience: str, profile: str) -> None:
    named = [found] if isinstance(found, str) else found
    if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
        raise NotAuthenticated("the token's aud is neither a string nor a list of strings")
    ours = {audience, *issuer.audiences, *([ANY_AUDIENCE[profile]] if issuer.any_audience else [])} - {""}
    if not ours & set(named):
        raise NotAuthenticated(f"the token's audience is {', '.join(named)[:200]}, not {audience or 'this site'}")


def _check_times(claims: Mapping[str, object], issuer: Issuer, now: datetime | None) -> None:
    times = {name: _time(claims, name) for name in ("iat", "exp", "nbf") if name in claims}
    begun, ends = times["iat"], times["exp"]
    if ends <= begun:
        raise NotAuthenticated("the token ends before it begins")
    if ends - begun > issuer.max_lifetime:
        raise NotAuthenticated(
            f"the token is valid for {ends - begun:.0f} seconds, more than the {issuer.max_lifetime} allowed here"
        )
    if now is None:
        return
    at = now.timestamp()
    if ends + SKEW <= at:
        raise NotAuthenticated("the token has expired")
    if max(begun, times.get("nbf", begun)) - SKEW > at:
        raise NotAuthenticated("the token is not valid yet")


def _time(claims: Mapping[str, object], name: str) -> float:
    """Seconds since 1970 (RFC 7519, NumericDate)."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 40:
        raise NotAuthenticated(f"the token's {name} is not a valid time")
    return float(value)


def _scopes(claims: Mapping[str, object]) -> list[str]:
    found = claims.get("scope", "")
    if not isinstance(found, str):
        raise NotAuthenticated("the token's scope is not a string")
    scopes = [scope for scope in found.split(" ") if scope]
    if len(scopes) > MAX_SCOPES:
        raise NotAuthenticated(f"the token has more than {MAX_SCOPES} scopes")
    return scopes


def _groups(claims: Mapping[str, object], issuer: Issuer) -> tuple[str, ...]:
    """The token's groups that are the VO's, in its order. Others are dropped: one issuer speaks for one VO."""
    found = claims.get("wlcg.groups", [])
    if not isinstance(found, list) or len(found) > MAX_GROUPS:
        raise NotAuthenticated(f"the token's wlcg.groups is not a list of at most {MAX_GROUPS} groups")
    for group in found:
        try:
            _GROUP.validate_python(group, strict=True)
        except ValidationError as exc:
            raise NotAuthenticated("the token's wlcg.groups contains an invalid group") from exc
        if "=" in group:
            raise NotAuthenticated("the token's wlcg.groups contains an invalid group")
    root = f"/{issuer.vo}"
    return tuple(dict.fromkeys(group for group in found if group == root or group.startswith(f"{root}/")))
