"""Authentication of sites and authorization to read, from the rules in the database, cached for a second.

Operators change rules with commands while the service runs; a change takes effect within `REMEMBERED`. To a site that may
not read an image, the image does not exist: every refusal is the answer for something that is missing.
"""

import hmac
import secrets
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from catalog.access import rule_store
from catalog.access.rules import ANONYMOUS, AccessRules, ImageScope, parse_credential
from catalog.db.engine import CatalogDatabase
from catalog.errors import Malformed, NotEntitled
from catalog.image.address import Address
from catalog.schema.swarms import SwarmGrant
from catalog.swarm.announce_keys import KEY_LIFE, MIN_SECRET, ORIGIN, AnnounceKeys, KeyHolder
from catalog.swarm.certificate_authority import SwarmCa
from catalog.swarm.torrent import short_hash

REMEMBERED = 1.0
"""Seconds for which rules, and the list of served contents, are cached."""

DECISIONS = 65_536
"""The most decisions about contents that are cached; they are dropped together with the rules that they follow from."""

BearerCredentials = HTTPAuthorizationCredentials | None
_scheme = HTTPBearer(
    auto_error=False, scheme_name="site", description="A site's credential; a request without one is anonymous."
)
CREDENTIAL = Annotated[BearerCredentials, Depends(_scheme)]
"""The credential of a request, as a parameter of a route."""


class CatalogAuthorizer:
    """Decides who may read what in one catalog. Safe to use from several threads.

    Args:
        database: the catalog's database.
        now: the wall clock, for the certificate authority.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, database: CatalogDatabase, now: Callable[[], datetime], clock: Callable[[], float]) -> None:
        self._database, self._now, self._clock = database, now, clock
        self._lock = threading.Lock()
        self._read_at = self._listed_at = float("-inf")
        self._rights, self._digests = AccessRules(), dict[str, str]()
        self._decisions: dict[tuple[str, Address], bool] = {}
        self._public_swarms: dict[bytes, Address] = {}
        self._restricted_swarms: dict[bytes, Address] = {}
        with database.writing() as connection:
            key = rule_store.load_secret(connection, "announce", lambda: secrets.token_bytes(MIN_SECRET))
            kept = rule_store.load_secret(connection, "authority", lambda: SwarmCa.make(now()).joined())
        self.keys, self.authority = AnnounceKeys(key), SwarmCa.parse(kept)

    def identify(self, credential: BearerCredentials) -> str:
        """The site that a credential belongs to, or ANONYMOUS without one.

        Raises:
            NotEntitled: it is not a valid credential, or not the current one of a registered site.
        """
        if credential is None:
            return ANONYMOUS
        site, digest = parse_credential(credential.credentials)
        self._refresh()
        if not hmac.compare_digest(self._digests.get(site, "-"), digest):
            raise NotEntitled(
                "the credential does not belong to a registered site; ask the catalog's operator for a new one"
            )
        return site

    def serves(self, site: str, vo: str) -> bool:
        """Whether a site is registered for members of a VO."""
        self._refresh()
        known = self._rights.sites.get(site)
        return known is not None and vo in known.vos

    def may_read(self, site: str, image: ImageScope) -> bool:
        """Whether a site may read an image."""
        self._refresh()
        return self._rights.may_read(site, image)

    def may_read_image(self, site: str, image_id: str) -> bool:
        """Whether a site may read a published image; an unpublished one cannot be read by any site."""
        with self._database.reading() as connection:
            image = rule_store.image_scope(connection, image_id)
        return image is not None and self.may_read(site, image)

    def may_read_content(self, site: str, address: Address) -> bool:
        """Whether a content is stored here and belongs to a published image that the site may read."""
        self._refresh()
        rights, decisions = self._rights, self._decisions
        found = decisions.get((site, address))
        if found is None:
            with self._database.reading() as connection:
                images = rule_store.scopes_with(connection, address)
            found = any(rights.may_read(site, image) for image in images)
            if found or images:  # a content that is missing may arrive at any moment
                if len(decisions) >= DECISIONS:
                    decisions.clear()
                decisions[site, address] = found
        return found

    def is_restricted(self, address: Address) -> bool:
        """Whether a content is hidden from anonymous requests."""
        return not self.may_read_content(ANONYMOUS, address)

    def holder_may_read(self, holder: KeyHolder, address: Address) -> bool:
        """Whether the holder of an announce key may read a content; a removed site has lost the right."""
        return holder.node == ORIGIN or self.may_read_content(holder.site, address)

    def authority_of(self, address: Address) -> bytes:
        """The certificate that is part of a restricted content's info dict; empty for a public one."""
        return self.authority.certificate if self.is_restricted(address) else b""

    def swarm_hash(self, address: Address) -> bytes:
        """The short info-hash of a content's swarm under the present rules."""
        return short_hash(address, self.authority_of(address))

    def issue_grant(
        self, holder: KeyHolder, name: str, address: Address, request: str | None, now: datetime
    ) -> SwarmGrant:
        """Issue a grant for the swarm of a content: an announce key and, if it is restricted, a certificate.

        Args:
            holder: of the announce key.
            name: of the holder, in the certificate.
            address: the content.
            request: a certificate request (PEM), needed for a restricted content; Malformed if it is not valid.
            now: the time; the grant is valid for KEY_LIFE from then on.
        """
        authority, certificate = self.authority_of(address), None
        if authority:
            if request is None:
                raise Malformed("grant: request: the content is restricted; send a certificate request")
            certificate = self.authority.issue(request, address.root.hex(), name, now, KEY_LIFE)
        return SwarmGrant(
            grant=self.keys.issue(holder, self.swarm_hash(address), now),
            expires=(now + KEY_LIFE).replace(microsecond=0),
            authority=authority.decode("ascii") or None,
            certificate=certificate,
        )

    def served_contents(self) -> Iterable[Address]:
        """Every content that is stored here and belongs to a published image."""
        with self._database.reading() as connection:
            return rule_store.served_contents(connection)

    def find_content(self, short: bytes) -> Address | None:
        """The content whose swarm has that short info-hash. A restricted content has no public swarm, and vice versa."""
        for reloaded in (False, True):
            if reloaded and not self._reload_swarms():
                return None
            if (address := self._public_swarms.get(short)) is not None:
                return None if self.is_restricted(address) else address
            if (address := self._restricted_swarms.get(short)) is not None:
                return address if self.is_restricted(address) else None
        return None

    def _reload_swarms(self) -> bool:
        """Read the served contents again, unless the list is fresh; returns whether it was read."""
        with self._lock:
            if self._clock() - self._listed_at < REMEMBERED:
                return False
            self._listed_at = self._clock()
            served = self.served_contents()
            # `short_hash` caches the hashes itself.
            self._public_swarms = {short_hash(address): address for address in served}
            self._restricted_swarms = {short_hash(address, self.authority.certificate): address for address in served}
            return True

    def _refresh(self) -> None:
        if self._clock() - self._read_at < REMEMBERED:
            return
        with self._lock:
            if self._clock() - self._read_at < REMEMBERED:
                return
            with self._database.reading() as connection:
                rights, digests = rule_store.load_rules(connection)
            # A new image may hold a known content and so make it readable: refusals are decided again.
            kept = self._decisions if rights == self._rights else {}
            self._decisions = {key: True for key, may in list(kept.items()) if may}
            self._rights, self._digests = rights, digests
            self._read_at = self._clock()
