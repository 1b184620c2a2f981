"""A site's metrics for Prometheus: machines, nodes and their capacity, events, and problems."""

from collections.abc import Iterator

from catalog.web.metrics import MetricFamily, gauge, labelled_metric
from deployer.machine.state import MachineState
from deployer.site.db.nodes import list_nodes
from deployer.site.model.records import NodeState, SiteNode
from deployer.site.schema.messages import SiteStatus
from deployer.site.store.store import SiteStore


def site_metrics(status: SiteStatus, store: SiteStore) -> Iterator[MetricFamily]:
    """The present metrics of a site."""
    machines = dict.fromkeys((state.value for state in MachineState), 0.0) | status.machines
    yield labelled_metric("site_machines", "Machines of the site, by state.", "state", machines)
    states = dict.fromkeys((state.value for state in NodeState), 0.0) | status.nodes
    yield labelled_metric("site_nodes", "Nodes of the site, by state.", "state", states)
    nodes = [one for one in store.read(list_nodes, contents=False) if one.state is not NodeState.LEFT]
    yield _capacity(nodes, "cores", "cores", "Processor cores")
    yield _capacity(nodes, "memory_bytes", "memory", "Memory")
    yield labelled_metric(
        "site_node_report_timestamp_seconds",
        "When a node last reported, Unix time.",
        "node",
        {one.name: one.reported.timestamp() for one in nodes if one.reported},
    )
    yield MetricFamily("site_events_total", "counter", "Events of the site.", [({}, status.events)])
    yield gauge(
        "site_problems", "Present and coming problems of the site; see `partita site status`.", len(status.problems)
    )


def _capacity(nodes: list[SiteNode], name: str, field: str, what: str) -> MetricFamily:
    samples = []
    for one in nodes:
        taken = getattr(one.capacity, f"taken_{field}")
        samples += [
            ({"node": one.name, "part": "all"}, float(getattr(one.capacity, field))),
            ({"node": one.name, "part": "taken_by_others"}, float(taken)),
        ]
    return MetricFamily(
        f"site_node_{name}",
        "gauge",
        f"{what} of a node: all, and those taken by machines that are not the site's.",
        samples,
    )
