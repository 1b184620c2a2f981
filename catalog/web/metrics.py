"""Metrics of services, for Prometheus. The door to its client library.

Each service exposes its metrics on an address of their own, apart from the one on which it serves; this address determines
who can read them. Names follow Prometheus' conventions: base units, `_total` for counters, and no label whose values a
requester chooses.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from catalog.errors import Misused, Unavailable

BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0)
"""Seconds: from a response out of memory to a long poll."""

OTHER = "other"
"""The route label of unknown paths, as requesters must not choose label values."""

END_SECONDS = 5.0


@dataclass(frozen=True)
class MetricFamily:
    """A metric with one sample, or a sample for each label value.

    Attributes:
        name: without `partita_`; ends in its unit, or in `_total`.
        kind: "gauge" goes up and down, "counter" only grows.
        text: its description, a sentence.
        samples: labels and value of each; one without labels for a plain metric.
    """

    name: str
    kind: Literal["gauge", "counter"]
    text: str
    samples: Sequence[tuple[Mapping[str, str], float]]


def gauge(name: str, text: str, value: float) -> MetricFamily:
    """A plain gauge."""
    return MetricFamily(name, "gauge", text, [({}, value)])


def labelled_metric(
    name: str, text: str, label: str, values: Mapping[str, float], kind: Literal["gauge", "counter"] = "gauge"
) -> MetricFamily:
    """A metric with a sample for each value of one label."""
    return MetricFamily(name, kind, text, [({label: key}, value) for key, value in sorted(values.items())])


class RequestMetrics:
    """Counts HTTP requests, and measures the time to their responses."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._count = Counter(
            "partita_http_requests_total",
            "HTTP requests with a response.",
            ("method", "route", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "partita_http_request_duration_seconds",
            "Time from the first byte of a request to the end of the response.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )

    def answered(self, method: str, route: str, code: int, seconds: float) -> None:
        """Count one request."""
        self._count.labels(method, route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def watching(self, app: Any) -> Any:
        """Wrap an ASGI application so that its requests are counted."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began, code = time.monotonic(), 500

            async def sent(message: Any) -> None:
                nonlocal code
                if message["type"] == "http.response.start":
                    code = message["status"]
                await send(message)

            try:
                await app(scope, receive, sent)
            finally:
                route = getattr(scope.get("route"), "path", OTHER)
                method = scope["method"] if route != OTHER else OTHER
                self.answered(method, route, code, time.monotonic() - began)

        return watched


@contextmanager
def expose_metrics(
    listen: str, collect: Callable[[], Iterable[MetricFamily]], requests: RequestMetrics | None = None
) -> Iterator[str]:
    """Answer `GET /metrics` at an address while the block runs.

    Args:
        listen: ADDRESS:PORT; port 0 takes a free one. Empty: metrics are disabled.
        collect: called at each scrape, in a separate thread.
        requests: request counts to expose too.

    Yields:
        The URL, or an empty text.

    Raises:
        Misused: an invalid port.
        Unavailable: the address is in use, or not an address of this machine.
    """
    if not listen:
        yield ""
        return
    registry = requests.registry if requests else CollectorRegistry()
    registry.register(_Collector(collect))
    host, _, port = listen.rpartition(":")
    if int(port) > 65535:
        raise Misused(f"{listen}: a port is at most 65535")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as exc:
        raise Unavailable(f"{listen}: cannot expose metrics there ({exc.strerror}); choose another address") from exc
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(END_SECONDS)


class _Collector(Collector):
    def __init__(self, collect: Callable[[], Iterable[MetricFamily]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that metrics are collected at a scrape, not when the service starts."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics at this moment."""
        for one in self._collect():
            labels = list(one.samples[0][0]) if one.samples else []
            make = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
            family = make(f"partita_{one.name}", one.text, labels=labels)
            for values, value in one.samples:
                family.add_metric(list(values.values()), value)
            yield family
