"""Authentication of requests to a site: a token, a certificate or the operator's own socket becomes one principal.

Why credentials were refused is written to the log and never sent to the client: a guesser learns only that they do not
count. No token, nor any usable part of one, is ever in a message.
"""

import logging
import re
from collections.abc import Callable, Sequence
from datetime import datetime

from deployer.errors import NotAuthenticated, SiteUnavailable
from deployer.pki.ca import CertificateAuthority
from deployer.policy.policy_files import reloaded_policy_file
from deployer.site.auth.grants import NODE_MEANS, TOKEN_MEANS
from deployer.site.auth.grid_identity import GridIdentities, GridTrust
from deployer.site.auth.issuers import Issuers
from deployer.site.auth.jwks import IssuerKeys
from deployer.site.auth.rate_limits import BURSTS, RequestLimiter, RequestRate
from deployer.site.auth.tokens import verify_token
from deployer.site.auth.voms import VomsDirectory
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.settings import SiteSettings
from signer.runtime.reloaded_files import ReloadedFiles

NODE_ISSUER = "site"
"""Issuer of the principals of nodes: the site itself."""

CHALLENGE = 'Bearer realm="partita"'

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)

log = logging.getLogger("partita.site")


class Authenticator:
    """Authenticates requests. Safe to use from several threads.

    Args:
        issuers: returns the issuers whose tokens are trusted now.
        audience: the site's name; tokens must be made for it.
        keys: the issuers' keys.
        authority: the site's own CA, which issues its nodes' certificates.
        now: the wall clock, UTC.
        rates: limits on requests.
        grid: the trust for people's certificates; without it they are refused.
        problems: returns what keeps legitimate people out, a sentence each.
    """

    def __init__(
        self,
        issuers: Callable[[], Issuers],
        audience: str,
        keys: IssuerKeys,
        authority: CertificateAuthority,
        now: Callable[[], datetime],
        rates: RequestLimiter,
        grid: GridTrust | None = None,
        problems: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.problems = problems
        self._issuers, self._audience, self._keys = issuers, audience, keys
        self._authority, self._now, self._rates = authority, now, rates
        self._grid = GridIdentities(grid) if grid is not None else None

    def authenticate(
        self, authorization: Sequence[str], chain: Sequence[bytes] = (), *, local: bool = False, address: str = ""
    ) -> Principal:
        """The principal who sends a request. A token, which is sent on purpose, takes precedence over the connection's proof.

        Args:
            authorization: the request's Authorization headers, as many as it has.
            chain: the certificates (DER) by which the peer of the connection was verified, its own first.
            local: whether the connection came by the operator's own socket.
            address: the peer's address, for the log and the rate limit.

        Raises:
            NotAuthenticated: no valid credentials. The sentence is the same whatever the reason, which is in the log.
            TooManyRequests: the rate limit is exceeded.
            SiteUnavailable: keys or CAs that are needed for the decision are unavailable now.
        """
        if not authorization and chain and (node := self._authority.node_of(chain, self._now())) is not None:
            # No rate limit here: a thousand nodes may stand behind one address, and the site itself let each of them in.
            return Principal(issuer=NODE_ISSUER, subject=node, means=NODE_MEANS)
        if not local:
            self._rates.check_address(address)
        if not (authorization or chain or local):
            raise NotAuthenticated(
                "this needs a bearer token, or an X.509 certificate or proxy, that the site trusts", CHALLENGE
            )
        try:
            found = self._verify(authorization, chain, local=local)
        except NotAuthenticated as exc:
            if not local:
                self._rates.count_failure(address)
            log.warning("request from %s not authenticated: %s", address or "an unknown address", exc)
            raise NotAuthenticated(
                "the credentials were not accepted; the site's log has the reason",
                f'{CHALLENGE}, error="invalid_token"' if authorization else CHALLENGE,
            ) from exc
        except SiteUnavailable as exc:
            log.warning("request from %s cannot be authenticated now: %s", address or "an unknown address", exc)
            raise
        if found.means != LOCAL_OPERATOR.means:
            self._rates.check_person(found.identity)
        return found

    def reauthenticate(self, who: Principal | None, address: str = "") -> None:
        """Check a request by the principal of a session, or by a client that is not known yet (None).

        Raises:
            NotAuthenticated: the principal's issuer is no longer trusted.
            TooManyRequests: the rate limit is exceeded.
        """
        self._rates.check_address(address)
        if who is None or who.means == LOCAL_OPERATOR.means:
            return
        if who.means == TOKEN_MEANS and self._issuers().find(who.issuer) is None:
            raise NotAuthenticated("your token's issuer was removed from the trusted issuers")
        self._rates.check_person(who.identity)

    def _verify(self, authorization: Sequence[str], chain: Sequence[bytes], *, local: bool) -> Principal:
        if authorization:
            if len(authorization) > 1:
                raise NotAuthenticated("the request has more than one Authorization header")
            match = _BEARER.fullmatch(authorization[0])
            if match is None:
                raise NotAuthenticated("the Authorization header does not carry a bearer token")
            return verify_token(match[1], self._issuers(), self._audience, self._now(), self._keys)
        if local:
            return LOCAL_OPERATOR
        if self._grid is None:
            raise NotAuthenticated("people's certificates are not accepted here: site.grid_certificates is not set")
        return self._grid.authenticate(chain, self._now())


def make_authenticator(
    settings: SiteSettings,
    authority: CertificateAuthority,
    url: str,
    now: Callable[[], datetime],
    clock: Callable[[], float],
) -> Authenticator:
    """Make the authenticator that the settings describe.

    Args:
        settings: of the site.
        authority: the site's own CA.
        url: the site's URL: the audience of tokens where none is set.
        now: the wall clock, UTC.
        clock: monotonic seconds.

    Raises:
        PolicyUnusable: the file of CAs of issuers' servers cannot be used.
    """
    issuers = reloaded_policy_file("issuers", settings.issuers, Issuers.load, Issuers(), log)
    keys = IssuerKeys(settings.directory / "issuer-keys", now, settings.issuers_ca)
    grid = None
    if settings.grid_certificates is not None:
        grid = GridTrust(settings.grid_certificates, VomsDirectory(settings.vomsdir), settings.names)
    return Authenticator(
        issuers.current,
        settings.audience or url.rstrip("/"),
        keys,
        authority,
        now,
        make_request_limiter(settings, clock),
        grid,
        lambda: _problems(issuers, keys),
    )


def _problems(issuers: ReloadedFiles[Issuers], keys: IssuerKeys) -> list[str]:
    trusted = {each.issuer for each in issuers.current().issuer}
    found = [f"the issuers file is not in force: {issuers.problem}"] if issuers.problem else []
    failed = [(issuer, why) for issuer, why in sorted(keys.problems.items()) if issuer in trusted]
    return found + [f"the keys of {issuer} cannot be fetched: {why}" for issuer, why in failed]


def make_request_limiter(settings: SiteSettings, clock: Callable[[], float]) -> RequestLimiter:
    """Make the limiter of requests that the settings describe."""
    rates = (settings.person_rate, settings.address_rate, settings.failure_rate)
    return RequestLimiter(clock, *map(RequestRate.steady, rates, BURSTS))
