"""How a site's files name VOs, images, networks and keys: with `*` for anything, and what such a name means."""

import re
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator

from catalog.image.manifest import Manifest

_VO_PATTERN = re.compile(r"[a-z0-9*][a-z0-9*._-]{0,62}")
_IMAGE_PATTERN = re.compile(
    r"sha256:[0-9a-f]{64}|[a-z0-9*][a-z0-9*._-]{0,62}/[a-z0-9*][a-z0-9*._-]{0,127}(@[A-Za-z0-9*][A-Za-z0-9*.+_~-]{0,63})?"
)
_NETWORK_PATTERN = re.compile(r"user|(network|bridge):[A-Za-z0-9*][A-Za-z0-9*_.-]{0,63}")


def pattern_validator(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    """A validator: text of that form, or a ValueError that says what would be one."""

    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text[:80]!r} is not {wanted}")
        return text

    return AfterValidator(check)


_WILD = ", in which * stands for anything"
VoPattern = Annotated[str, pattern_validator(_VO_PATTERN, f"the name of a VO{_WILD}")]
ImagePattern = Annotated[
    str, pattern_validator(_IMAGE_PATTERN, f"an image ID (sha256:<64 hex digits>), VO/NAME or VO/NAME@VERSION{_WILD}")
]
NetworkPattern = Annotated[str, pattern_validator(_NETWORK_PATTERN, f"user, network:NAME or bridge:NAME{_WILD}")]
Fingerprint = Annotated[
    str,
    pattern_validator(
        re.compile(r"[0-9A-F]{40}|/.{1,1023}"), "a primary key's fingerprint: 40 hex digits in capitals, without spaces"
    ),
]
"""Of a key, or the subject of a certificate, as `openssl x509 -noout -subject -nameopt compat` writes it."""
FileName = Annotated[
    str, pattern_validator(re.compile(r"[^\x00/][^\x00]{0,254}"), "the name of a file, relative to the policy")
]


def matches_vo(patterns: tuple[str, ...], vo: str) -> str | None:
    """The first pattern that names the VO."""
    return next((pattern for pattern in patterns if fnmatchcase(vo, pattern)), None)


def matches_image(patterns: tuple[str, ...], manifest: Manifest) -> str | None:
    """The first pattern that names the image: by its ID, or by what the manifest itself says it is called."""
    image_id = manifest.image_id
    for pattern in patterns:
        if pattern.startswith("sha256:"):
            if pattern == image_id:
                return pattern
            continue
        names, at, version = pattern.partition("@")
        vo, _, name = names.partition("/")
        named = fnmatchcase(manifest.vo, vo) and fnmatchcase(manifest.name, name)
        if named and (not at or fnmatchcase(manifest.version, version)):
            return pattern
    return None
