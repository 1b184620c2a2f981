"""A directory of CAs in the layout of grids: HASH.0 certificates, HASH.signing_policy, HASH.r0 revocation lists.

The names of the files only group them; a CA is found by the bytes of its subject. A CA without a signing policy is not
trusted for any subject, as with Globus. Source: IGTF distribution; Globus Toolkit, "Configuring GSI".
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from signer.errors import KeyUnusable, SignatureError
from signer.runtime.files import read_file
from signer.x509.certificates import (
    MAX_CERTIFICATE,
    Certificate,
    RevocationList,
    read_certificate,
    read_revocation_list,
)
from signer.x509.signing_policy import MAX_SIGNING_POLICY, Namespace, parse_signing_policy

DEFAULT_DIRECTORY = Path("/etc/grid-security/certificates")

MAX_FILES = 8192
"""Files in the directory; the whole IGTF distribution has under a thousand."""

MAX_LIST = 64 << 20
"""Bytes of one revocation list; the largest in grids have some millions."""

_NAMED = re.compile(r"([0-9a-f]{8})\.(?:([0-9])|(signing_policy)|r([0-9]))", re.ASCII)


@dataclass(frozen=True)
class TrustedCa:
    """A CA of the directory: its certificate, the namespaces it may sign, its revocation lists (newest first).

    Attributes:
        problem: why its signing policy or a list cannot be used; empty if all can.
    """

    certificate: Certificate
    namespaces: tuple[Namespace, ...] = ()
    lists: tuple[RevocationList, ...] = ()
    problem: str = ""

    def permits(self, subject: str) -> bool:
        """Whether its signing policy permits the subject. Of several rules for one CA the first applies."""
        mine = [each for each in self.namespaces if each.authority == self.certificate.subject]
        return bool(mine) and mine[0].permits(subject)


@dataclass(frozen=True)
class TrustStore:
    """All CAs of a directory, by the bytes of their subjects."""

    by_subject: Mapping[bytes, tuple[TrustedCa, ...]] = field(default_factory=dict)

    def issuers(self, certificate: Certificate) -> tuple[TrustedCa, ...]:
        """Return the CAs whose name the certificate gives as its issuer."""
        return self.by_subject.get(certificate.issuer_der, ())


def directory_state(path: Path) -> bytes:
    """Return a digest of the state of a directory of CAs: names, sizes, times and inodes of its files.

    Raises:
        SignatureError: the directory cannot be read.
    """
    try:
        names = sorted(entry.name for entry in path.iterdir() if _NAMED.fullmatch(entry.name))
        if len(names) > MAX_FILES:
            raise SignatureError(f"{path}: not a directory of CAs: it has more than {MAX_FILES} files")
        # A dangling link counts as absent.
        seen = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name in names if (stat := _stat(path / name))]
    except OSError as exc:
        raise SignatureError(f"{path}: the CAs cannot be read: {exc.strerror}") from exc
    return hashlib.sha256(repr((str(path.absolute()), seen)).encode()).digest()


def read_authorities(path: Path) -> TrustStore:
    """Read the CAs in a directory, again whenever a file in it has changed; errors as in :func:`directory_state`.

    A file that cannot be read disables its own CA and no other.
    """
    return _load(path.absolute(), directory_state(path))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


@lru_cache(maxsize=8)
def _load(path: Path, state: bytes) -> TrustStore:  # noqa: ARG001 - a part of the cache's key
    stems: dict[str, list[Path]] = {}
    for entry in sorted(path.iterdir()):
        if match := _NAMED.fullmatch(entry.name):
            stems.setdefault(match[1], []).append(entry)
    found: dict[bytes, dict[bytes, TrustedCa]] = {}
    for files in stems.values():
        for authority in _authorities(files):
            same = found.setdefault(authority.certificate.subject_der, {})
            # Of the same CA under its old and its new hash, the complete one.
            known = same.get(authority.certificate.der)
            if known is None or (known.problem and not authority.problem) or not known.namespaces:
                same[authority.certificate.der] = authority
    return TrustStore({subject: tuple(each.values()) for subject, each in found.items()})


def _authorities(files: list[Path]) -> list[TrustedCa]:
    certificates: list[Certificate] = []
    namespaces: tuple[Namespace, ...] = ()
    lists: list[RevocationList] = []
    problem = ""
    for file in files:
        suffix = file.name.partition(".")[2]
        try:
            if suffix == "signing_policy":
                text = _read(file, MAX_SIGNING_POLICY).decode("utf-8", "backslashreplace")
                namespaces = parse_signing_policy(text, file.name)
            elif suffix.startswith("r"):
                lists.append(read_revocation_list(_read(file, MAX_LIST)))
            else:
                certificates.append(read_certificate(_read(file, MAX_CERTIFICATE)))
        except FileNotFoundError:
            continue
        except SignatureError as exc:
            problem = str(exc)
        except KeyUnusable as exc:
            problem = f"{file.name}: {exc}"
        except OSError as exc:
            problem = f"{file.name}: cannot be read: {exc.strerror}"
    lists.sort(key=lambda one: one.last_update, reverse=True)
    return [TrustedCa(certificate, namespaces, tuple(lists), problem) for certificate in certificates]


def _read(path: Path, limit: int) -> bytes:
    data = read_file(path, limit)
    if len(data) > limit:
        raise KeyUnusable(f"larger than the {limit} bytes allowed")
    return data
