"""The context broker's record of a machine."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class BrokerContact:
    """The broker's record of a machine. Digests are SHA-256, 64 hex digits; secrets are kept as digests only.

    Attributes:
        node: where the machine was when it was invited; on another node it starts anew and is invited again.
        generation: how often it was invited.
        secret: digest of the secret.
        used: when the secret was used, or None.
        nonce: digest of the nonce that came with it.
        session: digest of the session, or empty.
        expires: when that ends.
        alarmed: when the secret was used again; from then on nothing that the machine publishes is trusted.
    """

    machine: str
    node: str
    generation: int
    secret: str
    used: datetime | None = None
    nonce: str = ""
    session: str = ""
    expires: datetime | None = None
    alarmed: datetime | None = None

    @property
    def sound(self) -> bool:
        """Whether exactly one party showed this machine's secret."""
        return self.used is not None and self.alarmed is None
