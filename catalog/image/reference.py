"""References to images: an image ID, VO/name@version, or VO/name for the newest version."""

import re
from dataclasses import dataclass
from typing import Self

from catalog.errors import Misused
from catalog.image.manifest import NAME_PATTERN, VERSION_PATTERN, VO_PATTERN

_ID = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(f"({VO_PATTERN})/({NAME_PATTERN})(?:@({VERSION_PATTERN}))?")


@dataclass(frozen=True, slots=True)
class Reference:
    """Holds either `image_id`, or `vo` and `name` with or without a `version`."""

    image_id: str | None = None
    vo: str = ""
    name: str = ""
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference as a person typed it; Misused explains the valid forms."""
        if _ID.fullmatch(text):
            return cls(image_id=text)
        if match := _NAME.fullmatch(text):
            return cls(vo=match[1], name=match[2], version=match[3])
        raise Misused(
            f"{text[:80]!r} is not a valid image reference; give sha256:<64 hex digits>, VO/NAME@VERSION or VO/NAME"
        )

    def __str__(self) -> str:
        return self.image_id or f"{self.vo}/{self.name}" + (f"@{self.version}" if self.version else "")
