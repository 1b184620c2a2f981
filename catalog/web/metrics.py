"""What a service counts and measures, for Prometheus. The door to its client library.

Each service gives its figures on an address of its own, which is not the one that it serves on: whoever may read them is
decided by where it listens, and nobody else gets to see them. Names follow Prometheus' conventions: base units, `_total`
for what only grows, and no label whose values a requester chooses.
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
"""Seconds: from an answer out of memory to a long poll."""

OTHER = "other"
"""The route of a request that is none of ours: paths of strangers are no labels."""

END_SECONDS = 5.0


@dataclass(frozen=True)
class MetricFamily:
    """One figure, or one for each of some labels.

    Attributes:
        name: without `partita_`; ends in its unit, or in `_total`.
        kind: "gauge" goes up and down, "counter" only grows.
        text: what it says, in a sentence.
        samples: labels and value of each; one with no labels for a plain figure.
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
    """A figure for each value of one label."""
    return MetricFamily(name, kind, text, [({label: key}, value) for key, value in sorted(values.items())])


class RequestMetrics:
    """Counts HTTP requests, and how long their answers took."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._count = Counter(
            "partita_http_requests_total",
            "Requests that were answered.",
            ("method", "route", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "partita_http_request_duration_seconds",
            "From a request's first byte to the end of its answer.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )

    def answered(self, method: str, route: str, code: int, seconds: float) -> None:
        """One request has been."""
        self._count.labels(method, route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def watching(self, app: Any) -> Any:
        """An ASGI application that counts the requests of another."""

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
    listen: str, figures: Callable[[], Iterable[MetricFamily]], requests: RequestMetrics | None = None
) -> Iterator[str]:
    """Answer `GET /metrics` at an address while the block runs.

    Args:
        listen: ADDRESS:PORT; port 0 takes a free one. Empty: nothing is done.
        figures: asked at each scrape, in a thread of its own.
        requests: whose counts are told too.

    Yields:
        The URL, or an empty text.

    Raises:
        Misused: a port that there is not.
        Unavailable: the address is in use, or none of this machine.
    """
    if not listen:
        yield ""
        return
    registry = requests.registry if requests else CollectorRegistry()
    registry.register(_Figures(figures))
    host, _, port = listen.rpartition(":")
    if int(port) > 65535:
        raise Misused(f"{listen}: a port is at most 65535")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as exc:
        raise Unavailable(f"{listen}: metrics cannot be given there ({exc.strerror}); choose another address") from exc
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(END_SECONDS)


class _Figures(Collector):
    def __init__(self, figures: Callable[[], Iterable[MetricFamily]]) -> None:
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        """Nothing: figures are asked for when they are wanted, not when the service starts."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All figures as they are now."""
        for one in self._figures():
            labels = list(one.samples[0][0]) if one.samples else []
            family: GaugeMetricFamily | CounterMetricFamily
            if one.kind == "counter":
                family = CounterMetricFamily(f"partita_{one.name}", one.text, labels=labels)
            else:
                family = GaugeMetricFamily(f"partita_{one.name}", one.text, labels=labels)
            for values, value in one.samples:
                family.add_metric(list(values.values()), value)
            yield family
