"""How long until machines run, by what earlier ones took. Pure, simple, and silent where nothing is known.

A boot is taken to be two parts: what it takes with everything cached, and the time for the bytes that a node has to fetch.
The first is the median of the node's boots that fetched nothing, the second the median rate of those that did. A node that
has no past is judged by the others'. Other traffic, other images' sizes and a busy node are not in it: an estimate is an
expectation, never a promise, and machines of one order that share a node's fetching are taken to wait for it together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

LITTLE = 1 << 20
"""Bytes below which a fetch says nothing about a rate."""


@dataclass(frozen=True, slots=True)
class Boot:
    """An earlier boot: on which node, bytes that were fetched for it, and seconds from its admission until it ran."""

    node: str
    fetched: int
    seconds: float


def estimate(boots: Sequence[Boot], fetch: Mapping[str, int]) -> float | None:
    """Seconds until the last machine runs.

    Args:
        boots: earlier ones, of any nodes.
        fetch: bytes that each node chosen has to fetch.

    Returns:
        None where the past says nothing: no boots, or bytes to fetch and none ever fetched.
    """
    found = [_on([boot for boot in boots if boot.node == node], boots, count) for node, count in fetch.items()]
    known = [seconds for seconds in found if seconds is not None]
    return round(max(known), 1) if known and len(known) == len(found) else None


def _on(here: Sequence[Boot], everywhere: Sequence[Boot], fetch: int) -> float | None:
    for boots in (here, everywhere):
        warm = _warm(boots)
        if warm is None:
            continue
        if fetch < LITTLE:
            return warm
        rates = [boot.fetched / (boot.seconds - warm) for boot in _cold(boots) if boot.seconds > warm]
        if rates:
            return warm + fetch / median(rates)
    return None


def _cold(boots: Sequence[Boot]) -> list[Boot]:
    return [boot for boot in boots if boot.fetched >= LITTLE]


def _warm(boots: Sequence[Boot]) -> float | None:
    """Seconds of a boot with everything cached; where there was none, no boot takes longer than the fastest."""
    warm = [boot.seconds for boot in boots if boot.fetched < LITTLE]
    if warm:
        return median(warm)
    return min((boot.seconds for boot in boots), default=None)
