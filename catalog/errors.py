"""The errors of the package `catalog`.

Errors that cross the wire have a stable `code` (the end of their RFC 9457 problem type) and carry their data as plain
attributes, so that the client raises the same class as the server.
"""

from collections.abc import Mapping

from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_UNVERIFIED, EXIT_USAGE, PartitaError


class CatalogError(PartitaError, code="failed"):
    """Base of all errors of this package."""


class Malformed(CatalogError, code="malformed", status=400):
    """Data or a request is malformed; the message gives the place."""


class DiskRefused(CatalogError, code="disk-refused", status=422, exit_code=EXIT_REFUSED):
    """A disk, partition or filesystem cannot be imported; the message gives the reason and the place in it."""


class BlankFailed(CatalogError, code="blank-unmade", status=503):
    """A blank cannot be made on this machine: a tool is missing or fails."""


class ContentMismatch(CatalogError, code="content-mismatch", status=422, exit_code=EXIT_UNVERIFIED):
    """Content does not have the expected address."""


class NotFound(CatalogError, code="not-found", status=404):
    """The image, name, content or VO does not exist here."""


class Conflict(CatalogError, code="conflict", status=409):
    """The name is already used for something else, such as a name@version of another image."""


class NotEntitled(CatalogError, code="not-entitled", status=403, exit_code=EXIT_REFUSED):
    """The requester may not do this here: the VO, or the key in the VO, is not registered, or access is restricted."""


class TooLarge(CatalogError, code="too-large", status=413):
    """The data is larger than this catalog accepts."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Close the connection: the rest of the body, which may be endless, is not read."""
        return {"Connection": "close"}


class RangeRefused(CatalogError, code="range-refused", status=416):
    """A byte range is malformed, or outside the content."""

    headers = TooLarge.headers


class Unavailable(CatalogError, code="unavailable", status=503, exit_code=EXIT_UNAVAILABLE):
    """The catalog cannot be reached, or cannot answer now; a later retry may succeed."""


class Misused(CatalogError, code="misused", status=400, exit_code=EXIT_USAGE):
    """The arguments of a command or request are invalid."""


class Unverified(CatalogError, code="unverified", status=502, exit_code=EXIT_UNVERIFIED):
    """The TUF metadata of a catalog or mirror does not verify against the pinned root."""


class Stale(Unverified, code="stale", status=503):
    """The TUF metadata has expired, or this machine's clock is wrong: no new machines may start."""


class Equivocation(Unverified, code="equivocation", status=409):
    """One name and version was seen for two different images: an alarm for the operator."""


class Unpinned(CatalogError, code="unpinned", status=403, exit_code=EXIT_REFUSED):
    """No TUF root is pinned, and a root is never trusted on first use."""
