"""Who may read which image: sites, rules, and the decision. Pure.

Every image is public until the catalog's operator restricts it: one version, all versions of a name, or all of a VO. Of the
rules that name an image the narrowest alone counts. A rule names sites, and VOs whose members a site serves.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from catalog.errors import Misused, NotEntitled
from catalog.image.manifest import NAME_PATTERN, VERSION_PATTERN, VO_PATTERN

SECRET_BYTES = 32
"""Random bytes in a credential: nobody guesses it, so a plain digest keeps it well."""

SITE_PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"
"""A label that also goes into announce keys."""

ANONYMOUS = ""
"""The site of whoever shows no credential."""

_CREDENTIAL = re.compile(rf"({SITE_PATTERN})\.([A-Za-z0-9_-]{{43}})")
_SCOPE = re.compile(f"({VO_PATTERN})(?:/({NAME_PATTERN})(?:@({VERSION_PATTERN}))?)?")


class ImageScope(NamedTuple):
    """What a rule is about: a VO, a name in it, or a version of the name; empty means all."""

    vo: str
    name: str = ""
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read VO, VO/NAME or VO/NAME@VERSION; Misused if it is none of them."""
        match = _SCOPE.fullmatch(text)
        if match is None:
            raise Misused(f"{text[:80]!r} names no images; give VO/NAME@VERSION, VO/NAME, or VO for all of a VO")
        return cls(match[1], match[2] or "", match[3] or "")

    def __str__(self) -> str:
        return self.vo + (f"/{self.name}" if self.name else "") + (f"@{self.version}" if self.version else "")

    def wider(self) -> "tuple[ImageScope, ...]":
        """Itself and all scopes around it, the narrowest first."""
        return tuple(dict.fromkeys((self, ImageScope(self.vo, self.name), ImageScope(self.vo))))


@dataclass(frozen=True)
class RegisteredSite:
    """A resource provider that the catalog knows, and the VOs whose members it serves."""

    name: str
    vos: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AccessRule:
    """Who may read: these sites, and sites that serve one of these VOs. Both empty: nobody."""

    sites: frozenset[str] = frozenset()
    vos: frozenset[str] = frozenset()

    def admits(self, site: RegisteredSite) -> bool:
        """Whether a site is among them."""
        return site.name in self.sites or bool(site.vos & self.vos)


@dataclass(frozen=True)
class AccessRules:
    """All sites and rules at one instant."""

    sites: Mapping[str, RegisteredSite] = field(default_factory=dict)
    rules: Mapping[ImageScope, AccessRule] = field(default_factory=dict)

    def rule(self, image: ImageScope) -> tuple[ImageScope, AccessRule] | None:
        """The rule that counts for an image, and where it is written; None for a public one."""
        for scope in image.wider():
            if (rule := self.rules.get(scope)) is not None:
                return scope, rule
        return None

    def may_read(self, site: str, image: ImageScope) -> bool:
        """Whether a site (STRANGER: whoever has no credential) may read an image."""
        found = self.rule(image)
        if found is None:
            return True
        known = self.sites.get(site)
        return known is not None and found[1].admits(known)


def format_credential(site: str, secret: str) -> str:
    """What a site's nodes show, as one line."""
    return f"{site}.{secret}"


def parse_credential(text: str) -> tuple[str, str]:
    """(site, SHA-256 of the secret in hex); NotEntitled if it is no credential. What was shown is not repeated."""
    match = _CREDENTIAL.fullmatch(text.strip())
    if match is None:
        raise NotEntitled("the credential is not of the form SITE.SECRET; take it from `partita catalog site register`")
    return match[1], hashlib.sha256(match[2].encode()).hexdigest()


def digests_equal(digest: str, other: str) -> bool:
    """Whether two digests are the same, in a time that does not tell how far they are."""
    return hmac.compare_digest(digest.encode(), other.encode())
