"""Who is asking, and what they may read: the rights in the database, remembered for a second.

Operators change rights with commands beside the running service; a change is in force within `REMEMBERED`. What somebody
may not read does not exist for them: every refusal is the answer for what is not there.
"""

import secrets
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from catalog.access import rule_store as entitlements
from catalog.access.rules import ANONYMOUS, AccessRules, ImageScope, digests_equal, parse_credential
from catalog.db.engine import CatalogDatabase
from catalog.errors import NotEntitled
from catalog.image.address import Address
from catalog.swarm.announce_keys import MIN_SECRET, ORIGIN, AnnounceKeys, KeyHolder
from catalog.swarm.certificate_authority import SwarmCa
from catalog.swarm.torrent import short_hash

REMEMBERED = 1.0
"""Seconds for which rights, and what is served, are not looked up again."""

DECISIONS = 65_536
"""Decisions about contents remembered at most; they are forgotten together with the rights that they follow from."""

BearerCredentials = HTTPAuthorizationCredentials | None
_scheme = HTTPBearer(auto_error=False, scheme_name="site", description="A site's credential; without one: a stranger.")
CREDENTIAL = Annotated[BearerCredentials, Depends(_scheme)]
"""What a request shows, as a parameter of a route."""


class CatalogAuthorizer:
    """Answers for one catalog. Safe to use from several threads.

    Args:
        database: of the catalog.
        now: the wall clock, for the authority.
        clock: seconds.
    """

    def __init__(self, database: CatalogDatabase, now: Callable[[], datetime], clock: Callable[[], float]) -> None:
        self._database, self._now, self._clock = database, now, clock
        self._lock = threading.Lock()
        self._read_at = self._listed_at = float("-inf")
        self._rights, self._digests = AccessRules(), dict[str, str]()
        self._decisions: dict[tuple[str, Address], bool] = {}
        self._plain: dict[bytes, Address] = {}
        self._closed: dict[bytes, Address] = {}
        with database.writing() as connection:
            key = entitlements.load_secret(connection, "announce", lambda: secrets.token_bytes(MIN_SECRET))
            kept = entitlements.load_secret(connection, "authority", lambda: SwarmCa.make(now()).joined())
        self.keys, self.authority = AnnounceKeys(key), SwarmCa.parse(kept)

    def who(self, shown: BearerCredentials) -> str:
        """The site whose credential was shown, or STRANGER.

        Raises:
            NotEntitled: what was shown is no credential, or not that of a registered site (any more).
        """
        if shown is None:
            return ANONYMOUS
        site, digest = parse_credential(shown.credentials)
        self._refresh()
        if not digests_equal(self._digests.get(site, "-"), digest):
            raise NotEntitled(
                "the credential is not that of a registered site; ask the catalog's operator for a new one"
            )
        return site

    def serves(self, site: str, vo: str) -> bool:
        """Whether a site is registered as one that serves members of a VO."""
        self._refresh()
        known = self._rights.sites.get(site)
        return known is not None and vo in known.vos

    def may_read(self, site: str, image: ImageScope) -> bool:
        """Whether a site may read an image."""
        self._refresh()
        return self._rights.may_read(site, image)

    def may_read_image(self, site: str, image_id: str) -> bool:
        """Whether a site may read a published image; what is not published nobody may."""
        with self._database.reading() as connection:
            image = entitlements.image_scope(connection, image_id)
        return image is not None and self.may_read(site, image)

    def may_read_content(self, site: str, address: Address) -> bool:
        """Whether a site may read a content: it is here, in a published image that the site may read."""
        self._refresh()
        rights, decisions = self._rights, self._decisions
        found = decisions.get((site, address))
        if found is None:
            with self._database.reading() as connection:
                images = entitlements.scopes_with(connection, address)
            found = any(rights.may_read(site, image) for image in images)
            if found or images:  # what is not here yet may come at any moment
                if len(decisions) >= DECISIONS:
                    decisions.clear()
                decisions[site, address] = found
        return found

    def is_restricted(self, address: Address) -> bool:
        """Whether strangers may not read a content."""
        return not self.may_read_content(ANONYMOUS, address)

    def holder_may_read(self, holder: KeyHolder, address: Address) -> bool:
        """Whether the holder of an announce key may read a content; whose site is gone has lost the right."""
        return holder.node == ORIGIN or self.may_read_content(holder.site, address)

    def authority_of(self, address: Address) -> bytes:
        """The certificate that is part of a restricted content's info dict; empty for a public one."""
        return self.authority.certificate if self.is_restricted(address) else b""

    def swarm_hash(self, address: Address) -> bytes:
        """The short info-hash of a content's swarm as it is now."""
        return short_hash(address, self.authority_of(address))

    def served(self) -> Iterable[Address]:
        """Every content that is here and belongs to a published image."""
        with self._database.reading() as connection:
            return entitlements.served_contents(connection)

    def content(self, short: bytes) -> Address | None:
        """The content whose swarm has that short info-hash. A restricted one has no public swarm, and the other way round."""
        for again in (False, True):
            if again and not self._list():
                return None
            if (address := self._plain.get(short)) is not None:
                return None if self.is_restricted(address) else address
            if (address := self._closed.get(short)) is not None:
                return address if self.is_restricted(address) else None
        return None

    def _list(self) -> bool:
        """Look what is served, unless that was done just now; returns whether it was looked."""
        with self._lock:
            if self._clock() - self._listed_at < REMEMBERED:
                return False
            self._listed_at = self._clock()
            with self._database.reading() as connection:
                served = entitlements.served_contents(connection)
            # The hashes are remembered where they are computed.
            self._plain = {short_hash(address): address for address in served}
            self._closed = {short_hash(address, self.authority.certificate): address for address in served}
            return True

    def _refresh(self) -> None:
        if self._clock() - self._read_at < REMEMBERED:
            return
        with self._lock:
            if self._clock() - self._read_at < REMEMBERED:
                return
            with self._database.reading() as connection:
                rights, digests = entitlements.load_rules(connection)
            # A new image may hold a known content, and so give a right to it: what was refused is asked again.
            kept = self._decisions if rights == self._rights else {}
            self._decisions = {key: True for key, may in list(kept.items()) if may}
            self._rights, self._digests = rights, digests
            self._read_at = self._clock()
