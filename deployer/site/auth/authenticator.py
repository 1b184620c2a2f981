"""Who asks a site: a token, a certificate or the operator's own socket become one principal, or nobody.

What is wrong with somebody's proof is told to the log, and never to them: a guesser learns nothing but that it does not
count. No token, nor any part of one that could be used, is ever in a message.
"""

import logging
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

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
from signer.x509.ca_directory import CaDirectory

NODE_ISSUER = "site"
"""The issuer of nodes' principals: the site itself."""

CHALLENGE = 'Bearer realm="partita"'

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)

log = logging.getLogger("partita.site")


class Authenticator:
    """Says who somebody is. Safe to use from several threads.

    Args:
        issuers: whose tokens are believed now.
        audience: what the site is called; tokens must be made for it.
        keys: of the issuers.
        authority: the site's own CA, which vouches for its nodes.
        now: the wall clock, UTC.
        rates: how often somebody may ask.
        grid: how certificates of people are judged; without it they do not count.
        problems: what keeps people out who should come in, a sentence each.
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
        self._people = GridIdentities(grid) if grid is not None else None

    def authenticate(
        self, authorization: Sequence[str], chain: Sequence[bytes] = (), *, local: bool = False, address: str = ""
    ) -> Principal:
        """Who sends a request. What somebody shows on purpose, a token, comes before what their connection proves.

        Args:
            authorization: the request's Authorization headers, as many as it has.
            chain: the certificates (DER) by which the connection's other end was verified, its own first.
            local: whether the connection came by the operator's own socket.
            address: from where, for the log and for the rate.

        Raises:
            NotAuthenticated: nobody knows. The sentence is the same whatever the reason, which is in the log.
            TooManyRequests: that was too often.
            SiteUnavailable: what is needed to know cannot be had now.
        """
        if not authorization and chain and (node := self._authority.node_of(chain, self._now())) is not None:
            # A thousand nodes behind one address are no crowd of strangers: the site itself let each of them in.
            return Principal(issuer=NODE_ISSUER, subject=node, means=NODE_MEANS)
        if not local:
            self._rates.knock(address)
        if not (authorization or chain or local):
            raise NotAuthenticated(
                "this needs a bearer token, or an X.509 certificate or proxy, that the site trusts", CHALLENGE
            )
        try:
            found = self._who(authorization, chain, local=local)
        except NotAuthenticated as exc:
            if not local:
                self._rates.failed(address)
            log.warning("%s could not say who they are: %s", address or "somebody", exc)
            raise NotAuthenticated(
                "the credentials were not accepted; the site's log has the reason",
                f'{CHALLENGE}, error="invalid_token"' if authorization else CHALLENGE,
            ) from exc
        except SiteUnavailable as exc:
            log.warning("%s cannot be known: %s", address or "somebody", exc)
            raise
        if found.means != LOCAL_OPERATOR.means:
            self._rates.ask(found.identity)
        return found

    def again(self, who: Principal | None, address: str = "") -> None:
        """Somebody asks who was known before, by a session; or of whom nothing is known yet.

        Raises:
            NotAuthenticated: whoever vouched for them is not believed any more.
            TooManyRequests: that was too often.
        """
        self._rates.knock(address)
        if who is None or who.means == LOCAL_OPERATOR.means:
            return
        if who.means == TOKEN_MEANS and self._issuers().find(who.issuer) is None:
            raise NotAuthenticated("your token's issuer is no longer trusted")
        self._rates.ask(who.identity)

    def _who(self, authorization: Sequence[str], chain: Sequence[bytes], *, local: bool) -> Principal:
        if authorization:
            if len(authorization) > 1:
                raise NotAuthenticated("there is more than one Authorization header")
            match = _BEARER.fullmatch(authorization[0])
            if match is None:
                raise NotAuthenticated("the Authorization header does not carry a bearer token")
            return verify_token(match[1], self._issuers(), self._audience, self._now(), self._keys)
        if local:
            return LOCAL_OPERATOR
        if self._people is None:
            raise NotAuthenticated("certificates of people do not count here: site.grid_certificates is not set")
        return self._people.person(chain, self._now())


def make_authenticator(
    settings: SiteSettings,
    authority: CertificateAuthority,
    url: str,
    now: Callable[[], datetime],
    clock: Callable[[], float],
) -> Authenticator:
    """An authenticator as the settings say.

    Args:
        settings: of the site.
        authority: its own CA.
        url: what it calls itself: what tokens are made for where no audience is set.
        now: the wall clock, UTC.
        clock: seconds, that never goes back.

    Raises:
        PolicyUnusable: the file with the CAs of issuers' servers cannot be used.
    """
    issuers = reloaded_policy_file("issuers", settings.issuers, Issuers.load, Issuers(), log)
    keys = IssuerKeys(keys_directory(settings.directory), now, settings.issuers_ca)
    grid = None
    if settings.grid_certificates is not None:
        grid = GridTrust(CaDirectory(settings.grid_certificates), VomsDirectory(settings.vomsdir), settings.names)
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
    believed = {each.issuer for each in issuers.current().issuer}
    found = [f"the issuers are not in force as their file is: {issuers.problem}"] if issuers.problem else []
    asked = [(issuer, why) for issuer, why in sorted(keys.problems.items()) if issuer in believed]
    return found + [f"the keys of {issuer} cannot be fetched: {why}" for issuer, why in asked]


def make_request_limiter(settings: SiteSettings, clock: Callable[[], float]) -> RequestLimiter:
    """How often people may ask, as the settings say."""
    said = (settings.person_rate, settings.address_rate, settings.failure_rate)
    return RequestLimiter(clock, *map(RequestRate.steady, said, BURSTS))


def keys_directory(directory: Path) -> Path:
    """Where a site keeps issuers' keys, below its own directory."""
    return directory / "issuer-keys"
