"""A TUF repository in memory whose publisher, or whoever took it over, may do anything; served through a transport."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import httpx2

from catalog.client.trusted import TrustedCatalog
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.tuf import keys as tuf_keys
from catalog.tuf.metadata import (
    BINS,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    MetadataSigner,
    add_signature,
    bin_document,
    bin_number,
    bin_role,
    next_root,
    root_document,
    snapshot_document,
    targets_document,
    timestamp_document,
)
from catalog.tuf.targets import (
    NameBinding,
    describe_target,
    encode_statements,
    endorsements_path,
    manifest_path,
    name_path,
    revocation_targets,
)
from signer.documents import canonical
from tests.support import factories

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
BITS = 2
URL = "http://catalog.example"


class Endless(httpx2.SyncByteStream):
    """A body that never ends."""

    def __iter__(self) -> Iterator[bytes]:
        """Zeros for ever."""
        return itertools.repeat(b"\0" * 65536)


class Repository(httpx2.BaseTransport):
    """What `files` holds is served; `publish` makes it right, tests make it wrong.

    Attributes:
        now: the time, for publisher and reader.
        files: bodies by path; None never ends.
        down: whether it cannot be reached.
    """

    def __init__(self) -> None:
        self.now = NOW
        self.down = False
        self.files: dict[str, bytes | None] = {}
        self.asked: list[str] = []
        counts = {ROOT: 3, TARGETS: 1, SNAPSHOT: 1, TIMESTAMP: 1, BINS: 1}
        self.keys = {role: [fresh() for _ in range(count)] for role, count in counts.items()}
        self.versions = {TARGETS: 1, SNAPSHOT: 0, TIMESTAMP: 0} | {bin_role(number, BITS): 0 for number in range(4)}
        self.contents: dict[str, bytes] = revocation_targets([])
        root = root_document(self.keys, {ROOT: 2}, 1, NOW + 365 * DAY)
        self.roots: list[bytes] = []
        self.add_root(signed(root, self.keys[ROOT][:2]))
        self.put_targets()
        self.publish(self.contents)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Serve."""
        path = unquote(request.url.path)
        self.asked.append(path)
        if self.down:
            raise httpx2.ConnectError("refused")
        if path not in self.files:
            return httpx2.Response(404)
        body = self.files[path]
        return (
            httpx2.Response(200, stream=Endless())
            if body is None
            else httpx2.Response(200, stream=httpx2.ByteStream(body))
        )

    def add_root(self, data: bytes) -> None:
        """The next root."""
        self.roots.append(data)
        self.meta(f"{len(self.roots)}.root", data)

    def meta(self, name: str, data: bytes | None) -> None:
        """Serve metadata under a name."""
        self.files[f"/tuf/metadata/{name}.json"] = data

    def put_targets(self, *, expires: datetime | None = None, signer: MetadataSigner | None = None) -> None:
        """The top-level targets, in their present version."""
        data = targets_document(self.keys[BINS][0], BITS, self.versions[TARGETS], expires or self.now + 365 * DAY)
        self.meta(f"{self.versions[TARGETS]}.targets", signed(data, [signer or self.keys[TARGETS][0]]))

    def publish(self, contents: Mapping[str, bytes], *, expires: datetime | None = None) -> None:
        """List these targets beside those that are listed."""
        self.contents |= contents
        for path, data in contents.items():
            self.target(path, hashlib.sha256(data).hexdigest(), data)
        for role in list(self.versions):
            if role.startswith("bin-"):
                self.put_bin(role, expires=expires)
        self.put_snapshot()
        self.put_timestamp()

    def target(self, path: str, digest: str, data: bytes | None) -> None:
        """Serve a target's content."""
        head, _, name = path.rpartition("/")
        self.files[f"/tuf/targets/{head}/{digest}.{name}" if head else f"/tuf/targets/{digest}.{name}"] = data

    def put_bin(self, role: str, *, expires: datetime | None = None, signer: MetadataSigner | None = None) -> None:
        """A bin in its next version."""
        self.versions[role] += 1
        mine = [
            describe_target(path, data)
            for path, data in self.contents.items()
            if bin_role(bin_number(path, BITS), BITS) == role
        ]
        data = bin_document(signer or self.keys[BINS][0], self.versions[role], mine, expires or self.now + 365 * DAY)
        self.meta(f"{self.versions[role]}.{role}", data)

    def put_snapshot(
        self,
        *,
        expires: datetime | None = None,
        signer: MetadataSigner | None = None,
        without: str = "",
        **changed: int,
    ) -> None:
        """The next snapshot; with other versions of some roles, or without one."""
        self.versions[SNAPSHOT] += 1
        bins = {role: number for role, number in self.versions.items() if role.startswith("bin-") and role != without}
        bins |= {role.replace("_", "-"): number for role, number in changed.items()}
        self.snapshot = snapshot_document(
            signer or self.keys[SNAPSHOT][0],
            self.versions[SNAPSHOT],
            self.versions[TARGETS],
            bins,
            expires or self.now + 7 * DAY,
        )
        self.meta(f"{self.versions[SNAPSHOT]}.snapshot", self.snapshot)

    def put_timestamp(
        self, *, version: int = 0, expires: datetime | None = None, signer: MetadataSigner | None = None
    ) -> None:
        """The next timestamp, or one of a given version."""
        self.versions[TIMESTAMP] = version or self.versions[TIMESTAMP] + 1
        key = signer or self.keys[TIMESTAMP][0]
        data = timestamp_document(key, self.versions[TIMESTAMP], self.snapshot, self.now, expires or self.now + DAY)
        self.meta("timestamp", data)

    def rotate(self, role: str, *, signers: list[MetadataSigner] | None = None) -> None:
        """Fresh keys for a role, in a new root signed by root keys old and new unless said otherwise."""
        old = list(self.keys[ROOT])
        self.keys[role] = [fresh() for _ in self.keys[role]]
        root = next_root(self.roots[-1], {role: self.keys[role]}, self.now + 365 * DAY)
        self.add_root(signed(root, [*old, *self.keys[ROOT]] if signers is None else signers))

    def image(self, version: str = "1.0", **changes: object) -> Manifest:
        """List an image; returns its manifest."""
        manifest = factories.manifest(ADDRESSES, version=version, **changes)
        self.publish(targets_of(manifest))
        return manifest

    def catalog(
        self,
        directory: Path,
        *more: str,
        clock: Callable[[], float] | None = None,
        alarm: Callable[[str], None] = lambda _said: None,
    ) -> TrustedCatalog:
        """A node's view of it, with the first root pinned; `more` are URLs of mirrors, served from here too."""
        seconds = itertools.count(0.0, 100.0)
        return TrustedCatalog(
            directory,
            lambda: self.roots[0],
            [URL, *more],
            lambda: self.now,
            transport=self,
            clock=clock or (lambda: next(seconds)),
            alarm=alarm,
        )


def targets_of(manifest: Manifest) -> dict[str, bytes]:
    """Everything that a catalog lists of its newest image."""
    bound = canonical(
        NameBinding(vo=manifest.vo, name=manifest.name, version=manifest.version, image_id=manifest.image_id)
    )
    return {
        manifest_path(manifest.image_id): manifest.canonical(),
        endorsements_path(manifest.image_id): encode_statements([(b"{}", b"signature")]),
        name_path(manifest.vo, manifest.name, manifest.version): bound,
        name_path(manifest.vo, manifest.name): bound,
    }


def fresh() -> MetadataSigner:
    """A key."""
    return MetadataSigner(tuf_keys.PrivateKey.generate())


def signed(data: bytes, signers: list[MetadataSigner]) -> bytes:
    """With these signatures."""
    for signer in signers:
        data = add_signature(data, signer)
    return data


ADDRESSES = [Address(hashlib.sha256(bytes([number])).digest(), 1 << 20) for number in range(3)]
