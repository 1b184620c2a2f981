"""Hard-links contents of one cache into another on the same filesystem, without allocating space.

A content gets its final path in a cache when it is verified, and is never written to from then on
(docs/adr/0003-cache-write-protocol.md). So the directory of a new cache may be filled with links to the contents of one
that is in use; the new cache hashes all of them again when it is opened (`recovery`), and keeps them when the other cache
removes its own names.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from catalog.image.address import Address
from stager.cache.recovery import entry_path, make_directories
from stager.errors import CacheUnusable


def link_contents(lender: Path, borrower: Path, wanted: Iterable[Address]) -> int:
    """Link contents of one cache into the directory of another that is not open; returns how many.

    Contents that the lender does not have (any more), or that the borrower already has, are left out.

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
