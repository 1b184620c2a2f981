"""Blanks on a node: made as `catalog.image.blanks` makes them, and failing as everything fails here."""

from pathlib import Path

from catalog.errors import BlankFailed as NotMade
from catalog.image import blanks
from catalog.image.blanks import SYSTEM_PATH, blank_digest, filesystem_uuid, reserved_size
from catalog.image.manifest import Blank
from stager.errors import BlankFailed

__all__ = ["SYSTEM_PATH", "blank_digest", "filesystem_uuid", "make_blank", "reserved_size"]


def make_blank(blank: Blank, path: Path) -> None:
    """As :func:`catalog.image.blanks.make_blank`; the stager's BlankFailed if it cannot be made."""
    try:
        blanks.make_blank(blank, path)
    except NotMade as exc:
        raise BlankFailed(str(exc)) from exc
