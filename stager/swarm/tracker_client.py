"""The tracker's client: announces this node, asks for parts to fetch first, and for the peers to which this node was named.

The only module of this package that imports httpx2. The tracker is believed in nothing but names of peers: what they send
is proved by the root.
"""

from typing import TypeVar
from urllib.parse import quote

import httpx2

from catalog.errors import Malformed
from catalog.image.address import Address
from catalog.swarm.torrent import short_hash
from catalog.swarm.tracker import AnnounceEvent, AnnounceResult, Endpoint
from catalog.swarm.tracker_protocol import (
    GRANT,
    MAX_TRACKER_RESPONSE,
    IncomingPeers,
    OriginRanges,
    OriginRangesQuery,
    parse_announce_response,
)
from signer.documents import canonical, parse
from signer.errors import DocumentError
from signer.runtime.closing import Closable
from signer.runtime.tls import trust_for
from stager.errors import TrackerRefuses, TrackerUnavailable
from stager.swarm.grants import CredentialsProvider, public_credentials

TIMEOUT = httpx2.Timeout(4.0, connect=2.0)
"""Seconds. An announce takes milliseconds; a swarm continues without its tracker, so nothing waits for it."""

D = TypeVar("D", OriginRanges, IncomingPeers)


class TrackerClient(Closable):
    """A connection to the tracker of one catalog; safe to use from several threads.

    Args:
        url: of the tracker, such as `http://catalog:7070/v1`: the routes `announce` and `swarms` are below it.
        site: this node's site label, or "".
        peer_id: 20 bytes that identify this node's process.
        credentials: gives the credentials for each content: its announce key, and the authority in its info dict.
    """

    def __init__(
        self,
        url: str,
        *,
        peer_id: bytes,
        site: str = "",
        credentials: CredentialsProvider = public_credentials,
        timeout: httpx2.Timeout = TIMEOUT,
    ) -> None:
        self.url, self._site, self._peer_id, self._credentials = url.rstrip("/"), site, peer_id, credentials
        # The environment's proxies are for the world outside; a node's catalog is where its settings say.
        self._http = httpx2.Client(verify=trust_for(self.url), timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def announce(
        self, address: Address, port: int, left: int, event: AnnounceEvent = AnnounceEvent.UPDATE
    ) -> AnnounceResult[Endpoint]:
        """Announce that we are in a swarm, and return its peers.

        Raises:
            TrackerUnavailable: the tracker cannot be reached, or its answer is malformed.
            TrackerRefuses: this node may not take part, or there is no such content.
        """
        credentials = self._credentials(address)
        query = (
            f"info_hash={quote(short_hash(address, credentials.authority), safe='')}&peer_id={quote(self._peer_id, safe='')}&port={port}"
            f"&uploaded=0&downloaded=0&left={left}&event={event}&compact=1&site={quote(self._site, safe='')}"
            f"&{GRANT}={quote(credentials.grant, safe='')}"
        )
        status, body = self._ask("GET", f"/announce?{query}")
        try:
            return parse_announce_response(body)
        except Malformed as exc:
            if 400 <= status < 500:
                raise TrackerRefuses(f"{self.url}: {exc}") from exc
            raise TrackerUnavailable(f"{self.url}: {exc}") from exc

    def parts(
        self, address: Address, port: int, have: list[tuple[int, int]], want: int
    ) -> list[tuple[int, int]] | None:
        """Ask for parts to fetch from the origin next, as byte ranges; None if the tracker does not know us (any more).

        Raises:
            TrackerUnavailable, TrackerRefuses: as `announce`.
        """
        asked = OriginRangesQuery(
            address=address, port=port, grant=self._credentials(address).grant, have=tuple(have), want=want
        )
        status, body = self._ask("POST", "/swarms/parts", canonical(asked))
        if status == httpx2.codes.CONFLICT:
            return None
        parts = list(self._document(OriginRanges, status, body).parts)
        if any(not start < end <= address.size for start, end in parts):
            raise TrackerUnavailable(f"{self.url}: assigned a part beyond the end of the content {address}")
        return parts

    def callers(self, port: int) -> IncomingPeers:
        """Ask for the peers to which this node was named in the last minute; errors as `announce`."""
        return self._document(IncomingPeers, *self._ask("GET", f"/swarms/callers?port={port}"))

    def _document(self, kind: type[D], status: int, body: bytes) -> D:
        if 400 <= status < 500:
            raise TrackerRefuses(f"{self.url}: answered {status}: {body[:200].decode(errors='replace')}")
        try:
            return parse(kind, body, f"the answer of {self.url}", limit=MAX_TRACKER_RESPONSE)
        except DocumentError as exc:
            raise TrackerUnavailable(f"{self.url}: answered {status}: {exc}") from exc

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        headers = {"content-type": "application/json"} if body is not None else {}
        try:
            with self._http.stream(method, self.url + path, content=body, headers=headers) as answer:
                received = bytearray()
                for chunk in answer.iter_raw():
                    received += chunk
                    if len(received) > MAX_TRACKER_RESPONSE:
                        break
                return answer.status_code, bytes(received)
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise TrackerUnavailable(f"the tracker {self.url} cannot be reached: {exc or type(exc).__name__}") from exc
