"""A node's metrics for Prometheus: its machines, its cache, and whether anything keeps machines from starting."""

from collections.abc import Iterator
from dataclasses import asdict

from catalog.web.metrics import MetricFamily, gauge, labelled_metric
from deployer.machine.state import MachineState
from deployer.node.schema.orders import NodeStatus
from stager.cache.cache import Cache


def figures(status: NodeStatus, cache: Cache) -> Iterator[MetricFamily]:
    """The present metrics of a node."""
    machines = dict.fromkeys((state.value for state in MachineState), 0.0) | status.machines
    yield labelled_metric("node_machines", "Machines that the node keeps, by state.", "state", machines)
    yield labelled_metric(
        "node_cache_bytes",
        "The cache: its quota, the bytes of its entries, bytes reserved for entries to come, leased, and in the trash.",
        "part",
        {name: float(size) for name, size in asdict(cache.usage()).items()},
    )
    yield gauge("node_cache_entries", "Contents that are whole in the cache.", len(cache.entries()))
    if status.fresh_until:
        yield gauge(
            "node_fresh_until_timestamp_seconds",
            "When the node's TUF metadata expires, Unix time; no new machine starts after that.",
            status.fresh_until.timestamp(),
        )
    yield labelled_metric(
        "node_problems",
        "1 where something keeps machines from starting, or soon will.",
        "part",
        {"policy": float(bool(status.policy_problem)), "freshness": float(bool(status.fresh_problem))},
    )
