"""Keys of token issuers: fetched from trusted issuers, kept on disk, and valid for a while when the issuer is down.

An issuer's keys are at the URL in its discovery document (OpenID Connect Discovery 1.0, section 4; RFC 8414 for those
without). HTTPS only, verified; no redirects; bounded in bytes and seconds. Keys are cached as WLCG's profile
recommends: fetched again after 6 hours, used for 4 days at most, and an unknown key is looked for once a minute
at most, so that made-up tokens cannot cause requests.
"""

import contextlib
import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx2
from pydantic import Field

from deployer.errors import PolicyUnusable, SiteUnavailable
from signer.documents import Document, canonical, parse, read_json
from signer.errors import DocumentError
from signer.runtime import files
from signer.statements.endorsement import Instant

KEYS_FRESH_FOR = timedelta(hours=6)
"""Age after which keys are fetched again (WLCG Common JWT Profile: key cache 6 h, from 1 h to 4 days)."""

STALE = timedelta(days=4)
"""Age from which keys are no longer used, although their issuer cannot be reached."""

AGAIN = timedelta(minutes=1)
"""Shortest time between two attempts to fetch one issuer's keys."""

MAX_DOCUMENT = 256 << 10
"""Bytes of a discovery document or a key set; usual ones have some thousand."""

MAX_KEYS = 100
"""Keys of one issuer."""

TIMEOUT = 10.0
"""Seconds for one document in all. A client's request waits for it."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "partita"}
_WELL_KNOWN = ("openid-configuration", "oauth-authorization-server")


class CachedKeys(Document):
    """An issuer's keys as they were fetched: the file on disk."""

    issuer: str
    fetched: Instant
    keys: Annotated[tuple[dict[str, Any], ...], Field(max_length=MAX_KEYS)]

    def find(self, kid: str) -> Mapping[str, Any] | None:
        """The key with that ID (`kid`)."""
        return next((key for key in self.keys if key.get("kid") == kid), None)


class _Refused(Exception):
    """Why keys could not be fetched."""


class IssuerKeys:
    """The keys of issuers. Safe to use from several threads.

    Args:
        directory: where they are kept; made at the first use.
        now: the wall clock, UTC.
        authorities: PEM file of the CAs that issuers' servers are verified against, or None for those of this system.
        clock: monotonic seconds, for how long an answer takes.

    Raises:
        PolicyUnusable: that file cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        now: Callable[[], datetime],
        authorities: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._now, self._clock = directory, now, clock
        try:
            trust = ssl.create_default_context(cafile=authorities)
        except (OSError, ssl.SSLError) as exc:
            raise PolicyUnusable(f"{authorities}: cannot read the CA certificates of token issuers (PEM)") from exc
        self._http = httpx2.Client(verify=trust, timeout=TIMEOUT, follow_redirects=False)
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._kept: dict[str, CachedKeys] = {}
        self._tried: dict[str, datetime] = {}
        self.problems: dict[str, str] = {}
        """Why the last fetch of an issuer's keys failed, by issuer; without those that succeeded."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def key(self, issuer: str, kid: str) -> Mapping[str, Any] | None:
        """A key by issuer and ID, from the cache where it is fresh and has it. The caller has checked that the issuer is trusted.

        Raises:
            SiteUnavailable: no usable keys of this issuer are cached, and it cannot be reached now.
        """
        found, young = self._look(issuer, kid)
        if found is not None and young:
            return found
        lock = self._lock(issuer)
        # With an old key that is still usable, do not wait for a fetch in another thread.
        if not lock.acquire(blocking=found is None):
            return found
        try:
            found, young = self._look(issuer, kid)  # another thread may have fetched them meanwhile
            if found is None or not young:
                self._refresh(issuer)
        finally:
            lock.release()
        if self._good(issuer) is None:
            raise SiteUnavailable("cannot fetch the keys of the token's issuer now; try again in a minute")
        return self._look(issuer, kid)[0]

    def _look(self, issuer: str, kid: str) -> tuple[Mapping[str, Any] | None, bool]:
        """The key, where it is cached and usable, and whether the cache is fresh."""
        kept = self._good(issuer)
        return (None, False) if kept is None else (kept.find(kid), self._age(kept) < KEYS_FRESH_FOR)

    def _lock(self, issuer: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(issuer, threading.Lock())

    def _age(self, kept: CachedKeys) -> timedelta:
        """Age of cached keys. A clock that was set back makes keys old, not fresh for ever."""
        age = self._now() - kept.fetched
        return age if age >= timedelta(0) else STALE

    def _good(self, issuer: str) -> CachedKeys | None:
        kept = self._kept.get(issuer)
        if kept is None:
            kept = self._read(issuer)
            if kept is not None:
                self._kept[issuer] = kept
        return kept if kept is not None and self._age(kept) < STALE else None

    def _refresh(self, issuer: str) -> None:
        now, tried = self._now(), self._tried.get(issuer)
        if tried is not None and timedelta(0) <= now - tried < AGAIN:
            return
        self._tried[issuer] = now
        try:
            keys = self._fetch(issuer)
        except _Refused as exc:
            self.problems[issuer] = str(exc)
            return
        self.problems.pop(issuer, None)
        kept = CachedKeys(issuer=issuer, fetched=now.replace(microsecond=0), keys=keys)
        self._kept[issuer] = kept
        with contextlib.suppress(OSError):  # a full disk must not keep people out; the keys are in memory
            self._write(kept)

    def _fetch(self, issuer: str) -> tuple[dict[str, Any], ...]:
        for name in _WELL_KNOWN:
            found = self._document(f"{issuer.rstrip('/')}/.well-known/{name}", absent=name != _WELL_KNOWN[-1])
            if found is not None:
                break
        assert found is not None  # noqa: S101 - the last one refuses instead
        if found.get("issuer") != issuer:
            raise _Refused("its discovery document names another issuer")
        uri = found.get("jwks_uri")
        if not isinstance(uri, str) or not uri.startswith("https://"):
            raise _Refused("its discovery document names no https jwks_uri")
        keys = (self._document(uri) or {}).get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise _Refused("its jwks_uri does not serve a key set")
        # Only what verifies signatures is kept, and never a private key that was published by mistake.
        public = tuple(
            {name: value for name, value in key.items() if name not in {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}}
            for key in keys
            if isinstance(key.get("kid"), str) and key.get("kty") in {"RSA", "EC", "OKP"}
        )
        if not public:
            raise _Refused("its key set has no asymmetric key with a kid")
        if len(public) > MAX_KEYS:
            raise _Refused(f"its key set has more than {MAX_KEYS} keys")
        return public

    def _document(self, url: str, *, absent: bool = False) -> dict[str, Any] | None:
        """Fetch a JSON object; None for 404 if `absent` allows that."""
        try:
            with self._http.stream("GET", url, headers=_HEADERS) as answer:
                if absent and answer.status_code == httpx2.codes.NOT_FOUND:
                    return None
                if answer.status_code != httpx2.codes.OK:
                    raise _Refused(f"{url} answers {answer.status_code}")
                data = b"".join(self._bounded(url, answer))
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise _Refused(f"{url} cannot be fetched: {exc}") from exc
        try:
            found = read_json(data, url, limit=MAX_DOCUMENT)
        except DocumentError as exc:
            raise _Refused(str(exc)) from exc
        if not isinstance(found, dict):
            raise _Refused(f"{url} does not serve a JSON object")
        return found

    def _bounded(self, url: str, answer: httpx2.Response) -> Iterator[bytes]:
        got, until = 0, self._clock() + TIMEOUT
        for chunk in answer.iter_raw():  # not decompressed: a small answer could become a large one
            got += len(chunk)
            if got > MAX_DOCUMENT:
                raise _Refused(f"{url} sends more than {MAX_DOCUMENT} bytes")
            if self._clock() > until:
                raise _Refused(f"{url} takes more than {TIMEOUT:.0f} seconds")
            yield chunk

    def _path(self, issuer: str) -> Path:
        return self._directory / f"{hashlib.sha256(issuer.encode()).hexdigest()}.json"

    def _read(self, issuer: str) -> CachedKeys | None:
        try:
            kept = parse(CachedKeys, self._path(issuer).read_bytes(), "kept keys", limit=2 * MAX_DOCUMENT)
        except (OSError, DocumentError):
            return None
        return kept if kept.issuer == issuer else None

    def _write(self, kept: CachedKeys) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(self._path(kept.issuer), canonical(kept), mode=0o600)
