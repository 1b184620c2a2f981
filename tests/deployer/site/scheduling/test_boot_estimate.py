"""Estimates: from what boots took, and none where nothing is known."""

import pytest

from deployer.site.scheduling.boot_estimate import BootRecord, estimate_boot

MIB = 1 << 20
WARM = BootRecord("n1", 0, 8.0)
COLD = BootRecord("n1", 100 * MIB, 18.0)  # ten seconds for 100 MiB


@pytest.mark.parametrize(
    ("boots", "fetch", "seconds"),
    [
        ([], {"n1": 0}, None),
        ([WARM], {}, None),
        ([WARM], {"n1": 0}, 8.0),
        ([WARM], {"n1": 100 * MIB}, None),
        ([WARM, COLD], {"n1": 0}, 8.0),
        ([WARM, COLD], {"n1": 50 * MIB}, 13.0),
        ([WARM, COLD], {"n2": 50 * MIB}, 13.0),
        ([WARM, COLD, BootRecord("n2", 0, 30.0)], {"n1": 0, "n2": 0}, 30.0),
        ([WARM, BootRecord("n1", 0, 10.0), BootRecord("n1", 0, 100.0)], {"n1": 0}, 10.0),
        ([COLD], {"n1": 0}, 18.0),
        ([COLD], {"n1": 100 * MIB}, None),
        ([WARM, BootRecord("n1", 100 * MIB, 8.0)], {"n1": MIB}, None),
        ([WARM, COLD, BootRecord("n2", 0, 30.0)], {"n2": 100 * MIB}, 40.0),
        ([WARM, COLD], {"n1": MIB - 1}, 8.0),
    ],
    ids=[
        "no past",
        "nothing chosen",
        "all cached",
        "never fetched anything",
        "cold boots do not slow warm ones",
        "half of what was fetched before",
        "a new node is judged by the others",
        "the last one counts",
        "one slow boot does not",
        "no warm boot yet",
        "a rate needs two boots",
        "a fetch that took no time says nothing",
        "a node that never fetched does so as the others",
        "next to nothing to fetch",
    ],
)
def test_estimates(boots: list[BootRecord], fetch: dict[str, int], seconds: float | None) -> None:
    """What earlier boots say."""
    assert estimate_boot(boots, fetch) == seconds
