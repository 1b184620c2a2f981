"""Contents that one cache lends another on the same filesystem: the same file under a second name, and not a byte more.

A content gets its name in a cache when it is verified, and nobody writes to it from then on
(docs/adr/0003-cache-write-protocol.md). So whoever opens a cache of their own beside one that is in use may link what is there; their cache hashes all of it again when it
is opened (`recovery`), and keeps it when the lender lets go of it.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from catalog.image.address import Address
from stager.cache.recovery import entry_path, make_directories
from stager.errors import CacheUnusable


def link_contents(lender: Path, borrower: Path, wanted: Iterable[Address]) -> int:
    """Link contents that one cache has into the directory of another, for whoever opens that next; returns how many.

    What the lender has not, or has no longer, is left out, and so is what the borrower has.

    Raises:
        CacheUnusable: the borrower's directory cannot be written.
    """
    lent = 0
    try:
        make_directories(borrower)
        for address in dict.fromkeys(wanted):
            target = entry_path(borrower, str(address))
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError, FileExistsError):
                os.link(entry_path(lender, str(address)), target, follow_symlinks=False)
                lent += 1
    except OSError as exc:
        raise CacheUnusable(f"{borrower}: cannot be used as a cache: {exc.strerror}") from exc
    return lent
