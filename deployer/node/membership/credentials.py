"""The files that `partita node join` left: who this node is at its site."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from catalog.errors import Misused
from deployer.errors import SiteUnavailable
from deployer.pki.ca import fingerprint

URL_FILE, CA_FILE, CERTIFICATE_FILE, KEY_FILE = "url", "site.pem", "certificate.pem", "key.pem"


@dataclass(frozen=True)
class SiteMembership:
    """That a node belongs to a site: what `partita node join` left.

    Attributes:
        url: of the site's service.
        identity: SHA-256 of the site's CA, by which its machines are told from others'.
        directory: of the files.
        stamp: changes when one of them does.
    """

    url: str
    identity: str
    directory: Path
    stamp: tuple[int, ...]

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """What lies there; None where the node belongs to no site. SiteUnavailable if it cannot be used."""
        names = (URL_FILE, CA_FILE, CERTIFICATE_FILE, KEY_FILE)
        try:
            stamp = tuple((directory / name).stat().st_mtime_ns for name in names)
            url = (directory / URL_FILE).read_text().strip()
            own, end, _ = (directory / CA_FILE).read_bytes().partition(b"-----END CERTIFICATE-----")
            identity = fingerprint(own + end + b"\n")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, Misused) as exc:
            raise SiteUnavailable(f"{directory}: the site's credentials for this node cannot be used: {exc}") from exc
        return cls(url, identity, directory, stamp)
