"""Everything that `catalog` raises for the world's faults.

Errors that cross the wire have a stable `code` (the end of their RFC 9457 problem type) and carry their data as plain
attributes, so that the client raises the very class that the server raised.
"""

from collections.abc import Mapping

from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_UNVERIFIED, EXIT_USAGE, PartitaError


class CatalogError(PartitaError):
    """Base of all errors of this package."""

    code = "failed"


class Malformed(CatalogError):
    """Something offered is not of the form it must have; the message gives the place."""

    code, status = "malformed", 400


class DiskRefused(CatalogError):
    """A disk, partition or filesystem cannot be imported; the message gives the reason and the place in it."""

    exit_code = EXIT_REFUSED
    code, status = "disk-refused", 422


class BlankFailed(CatalogError):
    """A blank cannot be made here: a tool is missing or refuses."""

    code, status = "blank-unmade", 503


class ContentMismatch(CatalogError):
    """Bytes do not have the address that they were said to have."""

    exit_code = EXIT_UNVERIFIED
    code, status = "content-mismatch", 422


class NotFound(CatalogError):
    """There is no such image, name, blob or VO here."""

    code, status = "not-found", 404


class Conflict(CatalogError):
    """It exists already with another meaning, such as a name@version that names another image."""

    code, status = "conflict", 409


class NotEntitled(CatalogError):
    """Who asks may not do this here: an unregistered VO, a key that the VO has not registered."""

    exit_code = EXIT_REFUSED
    code, status = "not-entitled", 403


class TooLarge(CatalogError):
    """More bytes than this catalog accepts."""

    code, status = "too-large", 413

    @property
    def headers(self) -> Mapping[str, str]:
        """The rest of the body, perhaps without end, is not read."""
        return {"Connection": "close"}


class RangeRefused(CatalogError):
    """A byte range that is malformed or outside the blob."""

    code, status = "range-refused", 416
    headers = TooLarge.headers


class Unavailable(CatalogError):
    """The catalog cannot be reached or cannot answer now; trying again later may help."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "unavailable", 503


class Misused(CatalogError):
    """The command or request does not make sense as given."""

    exit_code = EXIT_USAGE
    code, status = "misused", 400


class Unverified(CatalogError):
    """What a catalog or mirror says is current does not verify from the root that is pinned here."""

    exit_code = EXIT_UNVERIFIED
    code, status = "unverified", 502


class Stale(Unverified):
    """What is signed as current has expired, or this machine's clock is wrong: nothing new may start from it."""

    code, status = "stale", 503


class Equivocation(Unverified):
    """One name and version has been seen to stand for two contents: an alarm, somebody must look."""

    code, status = "equivocation", 409


class Unpinned(CatalogError):
    """There is no root to believe a catalog by, and none is taken on trust."""

    exit_code = EXIT_REFUSED
    code, status = "unpinned", 403
