"""Blanks on a node: made as `catalog.blanks` makes them, and failing as everything fails here."""

from pathlib import Path

from catalog import blanks
from catalog.blanks import SYSTEM_PATH, digest_of, identity, room
from catalog.errors import BlankFailed as NotMade
from catalog.manifest import Blank
from stager.errors import BlankFailed

__all__ = ["SYSTEM_PATH", "digest_of", "identity", "make_blank", "room"]


def make_blank(blank: Blank, path: Path) -> None:
    """As :func:`catalog.blanks.make_blank`; the stager's BlankFailed if it cannot be made."""
    try:
        blanks.make_blank(blank, path)
    except NotMade as exc:
        raise BlankFailed(str(exc)) from exc
