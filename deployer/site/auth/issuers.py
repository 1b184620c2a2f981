"""The issuers file: whose tokens a site trusts, for which VO, and within what limits. No other issuer's keys are fetched."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from catalog.image.manifest import Vo
from deployer.policy.patterns import pattern_validator
from deployer.policy.policy_files import PolicyFile
from signer.documents import Document
from signer.runtime.units import Duration

MAX_ISSUERS = 1 << 20
"""Bytes of the file."""

DEFAULT_LIFETIME = 6 * 3600
"""Seconds that a token may be valid for in all: the longest that WLCG's profile recommends for access tokens."""

Algorithm = Literal["RS256", "ES256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES384", "ES512", "EdDSA"]
"""Asymmetric ones only: with a shared secret, every verifier could make tokens."""

TokenProfile = Literal["wlcg", "scitokens"]

_URL = re.compile(r"https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
IssuerUrl = Annotated[
    str,
    Field(max_length=1024),
    pattern_validator(_URL, "an issuer: https://HOST[:PORT][/PATH], without query or fragment"),
]


class Issuer(Document):
    """A token issuer that the site trusts.

    Attributes:
        issuer: its URL, byte for byte as in its tokens.
        vo: the VO that it speaks for; one issuer is one VO (WLCG Common JWT Profile).
        profiles: the accepted kinds of tokens.
        algorithms: accepted for their signatures.
        max_lifetime: most seconds from `iat` to `exp`; a token that is valid for longer is refused.
        any_audience: whether tokens for any service (`https://wlcg.cern.ch/jwt/v1/any`, or `ANY`) are accepted.
        audiences: other names of this site that tokens may be made for.
    """

    issuer: IssuerUrl
    vo: Vo
    profiles: Annotated[tuple[TokenProfile, ...], Field(min_length=1)] = ("wlcg",)
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256")
    max_lifetime: Duration = DEFAULT_LIFETIME
    any_audience: bool = True
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...], Field(max_length=64)] = ()


class Issuers(PolicyFile):
    """All issuers that a site trusts; without any, every token is refused."""

    file_kind, max_bytes = "issuers", MAX_ISSUERS

    issuer: Annotated[tuple[Issuer, ...], Field(max_length=256)] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        urls = [each.issuer for each in self.issuer]
        if twice := next((url for url in urls if urls.count(url) > 1), None):
            raise ValueError(f"the issuer {twice} is listed twice; keep one")
        return self

    def find(self, url: object) -> Issuer | None:
        """The issuer with exactly that URL."""
        return next((each for each in self.issuer if each.issuer == url), None)
