"""Who asks a site for something: one kind of value, whatever proved it (a token, a certificate, the local socket)."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from signer.documents import Document

Group = Annotated[
    str, Field(max_length=255, pattern=r"^(/[a-zA-Z0-9][a-zA-Z0-9_.-]*)+(/Role=[a-zA-Z0-9][a-zA-Z0-9_.-]*)?$")
]
"""As in WLCG's profile and in VOMS: `/vo`, `/vo/group`, `/vo/group/Role=name`. Membership of a child does not imply that of its parent."""


class Capability(StrEnum):
    """The operations that a token may allow by itself (WLCG Common JWT Profile, "compute" scopes)."""

    READ = "compute.read"
    CREATE = "compute.create"
    MODIFY = "compute.modify"
    CANCEL = "compute.cancel"


class Principal(Document):
    """An authenticated requester.

    Attributes:
        issuer: who vouches for the name: a token's issuer, a certificate's CA, or "local".
        subject: the name with that issuer; both together are the identity.
        vo: the VO that the issuer speaks for, or the first group's; empty without either.
        groups: as the issuer lists them, the primary one first.
        capabilities: what the token allows by itself; where there are any, groups count for nothing.
        means: how it was proved.
    """

    issuer: Annotated[str, Field(min_length=1, max_length=1024)]
    subject: Annotated[str, Field(min_length=1, max_length=1024)]
    vo: Annotated[str, Field(max_length=63)] = ""
    groups: Annotated[tuple[Group, ...], Field(max_length=1000)] = ()
    capabilities: frozenset[Capability] | None = None
    means: Annotated[str, Field(max_length=32)] = "local"

    @property
    def identity(self) -> str:
        """Issuer and subject in one line: what owns a deployment."""
        return f"{self.issuer} {self.subject}"


LOCAL_OPERATOR = Principal(issuer="local", subject="operator", means="local")
"""The user of the site's own Unix socket: its operator."""
