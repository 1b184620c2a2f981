"""How long until machines run, by what earlier ones took. Pure, simple, and silent where nothing is known.

A boot is taken to be two parts: what it takes with everything cached, and the time for the bytes that a node has to fetch.
The first is the median of the node's boots that fetched nothing, the second the median rate of those that did. A node that
has no past is judged by the others'. Other traffic, other images' sizes and a busy node are not in it: an estimate is an
expectation, never a promise, and machines of one order that share a node's fetching are taken to wait for it together.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

LITTLE = 1 << 20
"""Bytes: the rate of a smaller fetch says nothing about the link."""


@dataclass(frozen=True, slots=True)
class BootRecord:
    """An earlier boot: on which node, bytes that were fetched for it, and seconds from its admission until it ran."""

    node: str
    fetched: int
    seconds: float


def estimate_boot(boots: Sequence[BootRecord], fetch: Mapping[str, int]) -> float | None:
    """Seconds until the last machine runs.

    Args:
        boots: earlier ones, of any nodes.
        fetch: bytes that each node chosen has to fetch.

    Returns:
        None where nothing is known: no boots, or bytes to fetch and none ever fetched.
    """
    by_node = defaultdict[str, list[BootRecord]](list)
    for boot in boots:
        by_node[boot.node].append(boot)
    rates = {node: _rates(there) for node, there in by_node.items()}
    every = [rate for there in rates.values() for rate in there]
    slowest = 0.0
    for node, count in fetch.items():
        warm = _warm(by_node[node] or boots)
        known = rates.get(node) or every
        if warm is None or (count >= LITTLE and not known):
            return None
        slowest = max(slowest, warm + (count / median(known) if count >= LITTLE else 0.0))
    return round(slowest, 1) if fetch else None


def _warm(boots: Sequence[BootRecord]) -> float | None:
    """Seconds of a boot with everything cached; where there was none, no boot takes longer than the fastest."""
    warm = [boot.seconds for boot in boots if boot.fetched < LITTLE]
    return median(warm) if warm else min((boot.seconds for boot in boots), default=None)


def _rates(boots: Sequence[BootRecord]) -> list[float]:
    """Bytes a second of one node's fetches: what its boots took beyond one with everything cached."""
    warm = _warm(boots)
    return [
        boot.fetched / (boot.seconds - warm)
        for boot in boots
        if warm is not None and boot.fetched >= LITTLE and boot.seconds > warm
    ]


@dataclass(frozen=True, slots=True)
class ReadinessSample:
    """How long an earlier guest of an image took from running to being ready: seconds."""

    image_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BootHistory:
    """What earlier machines took: to run, and then to be ready."""

    boots: tuple[BootRecord, ...] = ()
    settled: tuple[ReadinessSample, ...] = ()
