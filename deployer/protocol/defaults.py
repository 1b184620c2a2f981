"""What an order that leaves something open gets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RequestDefaults:
    """What an order that is silent gets: network as in `Network.parse`, lifetime as people write it."""

    network: str
    lifetime: str
