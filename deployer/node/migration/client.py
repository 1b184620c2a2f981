"""Fetching a machine from the node that gives it. A door to httpx2.

The node is known by the certificate of the site's CA in its UUID's name, whatever its address is; we show ours.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from catalog.schema.problems import read_problem
from deployer.errors import MigrationFailed
from deployer.node.membership.credentials import CA_FILE, CERTIFICATE_FILE, KEY_FILE, SiteMembership
from deployer.node.migration.manifest import MAX_MIGRATION_MANIFEST, MigrationFile, MigrationManifest
from signer.documents import parse
from signer.errors import DocumentError
from signer.runtime.closing import Closable

SILENCE = 30.0
"""Seconds that the other node may say nothing."""

CONNECT = 10.0
"""Seconds that a connection may take, its handshake included."""

MAX_REFUSAL = 64 << 10
"""Bytes of a refusal that are read."""


class MigrationClient(Closable):
    """A connection to a node that gives machines away.

    Args:
        membership: this node's own.
        url: where the other gives them.
        node: its UUID.
        silence: seconds that it may say nothing.

    Raises:
        MigrationFailed: the node's own certificate cannot be used.
    """

    def __init__(self, membership: SiteMembership, url: str, node: str, silence: float = SILENCE) -> None:
        place = membership.directory
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_verify_locations(cafile=str(place / CA_FILE))
            context.load_cert_chain(place / CERTIFICATE_FILE, place / KEY_FILE)
        except (OSError, ssl.SSLError) as exc:
            raise MigrationFailed(f"{place}: the node's certificate cannot be used: {exc}", again=True) from exc
        self._url, self._named = url, {"sni_hostname": node}
        timeout = httpx2.Timeout(silence, connect=min(silence, CONNECT))
        self._http = httpx2.Client(base_url=url, verify=context, trust_env=False, timeout=timeout)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def offer(self, machine: str, number: int) -> MigrationManifest:
        """Fetch the offer to this node; MigrationFailed, mostly worth a retry."""
        with self._stream(f"/v2/migrations/{machine}/{number}") as answer:
            data = bytearray()
            for portion in answer.iter_bytes():
                data += portion
                if len(data) > MAX_MIGRATION_MANIFEST:
                    raise MigrationFailed(f"{self._url}: offers more than {MAX_MIGRATION_MANIFEST} bytes can say")
        try:
            return parse(MigrationManifest, bytes(data), f"offer of {self._url}", limit=MAX_MIGRATION_MANIFEST)
        except DocumentError as exc:
            raise MigrationFailed(f"{exc}; is that node of another version?") from exc

    @contextmanager
    def runs(self, machine: str, number: int, piece: MigrationFile, start: int) -> Iterator[Iterator[bytes]]:
        """A file as it travels, from an offset on; errors as above."""
        with self._stream(f"/v2/migrations/{machine}/{number}/{piece.name}", {"start": str(start)}) as answer:
            yield answer.iter_bytes()

    @contextmanager
    def _stream(self, path: str, params: dict[str, str] | None = None) -> Iterator[httpx2.Response]:
        try:
            with self._http.stream("GET", path, params=params, extensions=self._named) as answer:
                if answer.status_code != httpx2.codes.OK:
                    said = read_problem(next(answer.iter_bytes(MAX_REFUSAL), b""))
                    reason = said or f"it answers {answer.status_code}"
                    raise MigrationFailed(f"{self._url}: does not give the machine: {reason}", again=True)
                yield answer
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise MigrationFailed(
                f"{self._url}: the node that has the machine does not answer ({exc or type(exc).__name__})", again=True
            ) from exc
