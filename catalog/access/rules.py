"""Access rules: which sites may read which images. Pure decisions.

Every image is public until the catalog's operator restricts it: one version, all versions of a name, or all images of a VO.
Of the rules that cover an image only the narrowest counts. A rule names sites, and VOs whose members a site serves.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from catalog.errors import Misused, NotEntitled
from catalog.image.manifest import NAME_PATTERN, VERSION_PATTERN, VO_PATTERN

SECRET_BYTES = 32
"""Random bytes in a credential: it cannot be guessed, so that a plain digest protects it well enough."""

SITE_PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"
"""The name of a site; announce keys carry it too."""

ANONYMOUS = ""
"""The site name of a request without a credential."""

_CREDENTIAL = re.compile(rf"({SITE_PATTERN})\.([A-Za-z0-9_-]{{43}})")
_SCOPE = re.compile(f"({VO_PATTERN})(?:/({NAME_PATTERN})(?:@({VERSION_PATTERN}))?)?")


class ImageScope(NamedTuple):
    """The images that a rule covers: a VO's, those of a name in it, or a version of the name; empty means all."""

    vo: str
    name: str = ""
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read VO, VO/NAME or VO/NAME@VERSION; Misused for any other text."""
        match = _SCOPE.fullmatch(text)
        if match is None:
            raise Misused(f"{text[:80]!r} does not name images; give VO/NAME@VERSION, VO/NAME, or VO for all of a VO")
        return cls(match[1], match[2] or "", match[3] or "")

    def __str__(self) -> str:
        return self.vo + (f"/{self.name}" if self.name else "") + (f"@{self.version}" if self.version else "")

    def wider(self) -> "tuple[ImageScope, ...]":
        """This scope and all that contain it, narrowest first."""
        return tuple(dict.fromkeys((self, ImageScope(self.vo, self.name), ImageScope(self.vo))))


@dataclass(frozen=True)
class RegisteredSite:
    """A resource provider that the catalog knows, and the VOs whose members it serves."""

    name: str
    vos: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AccessRule:
    """The sites that may read, by name or because they serve one of these VOs. Both empty: no site may."""

    sites: frozenset[str] = frozenset()
    vos: frozenset[str] = frozenset()

    def allows(self, site: RegisteredSite) -> bool:
        """Whether a site may read."""
        return site.name in self.sites or bool(site.vos & self.vos)


@dataclass(frozen=True)
class AccessRules:
    """All sites and rules at one moment."""

    sites: Mapping[str, RegisteredSite] = field(default_factory=dict)
    rules: Mapping[ImageScope, AccessRule] = field(default_factory=dict)

    def rule(self, image: ImageScope) -> tuple[ImageScope, AccessRule] | None:
        """The rule that counts for an image, and its scope; None for a public image."""
        for scope in image.wider():
            if (rule := self.rules.get(scope)) is not None:
                return scope, rule
        return None

    def may_read(self, site: str, image: ImageScope) -> bool:
        """Whether a site (or ANONYMOUS) may read an image."""
        found = self.rule(image)
        if found is None:
            return True
        known = self.sites.get(site)
        return known is not None and found[1].allows(known)


def format_credential(site: str, secret: str) -> str:
    """The credential of a site as one line."""
    return f"{site}.{secret}"


def parse_credential(text: str) -> tuple[str, str]:
    """(site, SHA-256 of the secret in hex) of a credential; NotEntitled if it is malformed. The text is never repeated."""
    match = _CREDENTIAL.fullmatch(text.strip())
    if match is None:
        raise NotEntitled(
            "malformed credential, not SITE.SECRET; use the file that `partita catalog site register` wrote"
        )
    return match[1], hashlib.sha256(match[2].encode()).hexdigest()
