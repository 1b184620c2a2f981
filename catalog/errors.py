"""Everything that `catalog` raises for the world's faults.

Errors that cross the wire have a stable `code` (the end of their RFC 9457 problem type) and carry their data as plain
attributes, so that the client raises the very class that the server raised.
"""

from collections.abc import Mapping

from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_UNVERIFIED, EXIT_USAGE, PartitaError


class CatalogError(PartitaError, code="failed"):
    """Base of all errors of this package."""


class Malformed(CatalogError, code="malformed", status=400):
    """Something offered is not of the form it must have; the message gives the place."""


class DiskRefused(CatalogError, code="disk-refused", status=422, exit_code=EXIT_REFUSED):
    """A disk, partition or filesystem cannot be imported; the message gives the reason and the place in it."""


class BlankFailed(CatalogError, code="blank-unmade", status=503):
    """A blank cannot be made here: a tool is missing or refuses."""


class ContentMismatch(CatalogError, code="content-mismatch", status=422, exit_code=EXIT_UNVERIFIED):
    """Bytes do not have the address that they were said to have."""


class NotFound(CatalogError, code="not-found", status=404):
    """There is no such image, name, blob or VO here."""


class Conflict(CatalogError, code="conflict", status=409):
    """It exists already with another meaning, such as a name@version that names another image."""


class NotEntitled(CatalogError, code="not-entitled", status=403, exit_code=EXIT_REFUSED):
    """Who asks may not do this here: an unregistered VO, a key that the VO has not registered."""


class TooLarge(CatalogError, code="too-large", status=413):
    """More bytes than this catalog accepts."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The rest of the body, perhaps without end, is not read."""
        return {"Connection": "close"}


class RangeRefused(CatalogError, code="range-refused", status=416):
    """A byte range that is malformed or outside the blob."""

    headers = TooLarge.headers


class Unavailable(CatalogError, code="unavailable", status=503, exit_code=EXIT_UNAVAILABLE):
    """The catalog cannot be reached or cannot answer now; trying again later may help."""


class Misused(CatalogError, code="misused", status=400, exit_code=EXIT_USAGE):
    """The command or request does not make sense as given."""


class Unverified(CatalogError, code="unverified", status=502, exit_code=EXIT_UNVERIFIED):
    """What a catalog or mirror says is current does not verify from the root that is pinned here."""


class Stale(Unverified, code="stale", status=503):
    """What is signed as current has expired, or this machine's clock is wrong: nothing new may start from it."""


class Equivocation(Unverified, code="equivocation", status=409):
    """One name and version has been seen to stand for two contents: an alarm, somebody must look."""


class Unpinned(CatalogError, code="unpinned", status=403, exit_code=EXIT_REFUSED):
    """There is no root to believe a catalog by, and none is taken on trust."""
