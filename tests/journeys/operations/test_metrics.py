"""What services tell Prometheus, judged by its own promtool, and the alerts that are made of it."""

import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.errors import Misused, Unavailable
from catalog.web.metrics import RequestMetrics, expose_metrics, gauge
from tests.support.catalog.service_process import Service
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, wait_for
from tests.support.site.service_process import SiteProcess

OPERATIONS = Path(__file__).resolve().parents[3] / "docs" / "operations"


def free() -> str:
    """An address that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


def scraped(listen: str) -> str:
    """What Prometheus would get; promtool has no fault to find with it."""
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    return text


def test_a_catalog_tells_what_it_holds(tmp_path: Path) -> None:
    listen = free()
    with Service(tmp_path, metrics=listen) as service:
        with service.client() as client:
            assert list(client.images()) == []
        counted = 'partita_http_requests_total{code="200",method="GET",route="/v1/images"} 1.0'
        # A request is counted when its answer is complete, which its client may know first.
        text = wait_for(lambda: text if counted in (text := scraped(listen)) else "")
    assert 'partita_catalog_records{kind="images"} 0.0' in text
    assert 'partita_catalog_metadata_expires_timestamp_seconds{role="root"} 1.' in text


@pytest.mark.guest
def test_a_site_and_its_node_tell_of_machines(
    make_site: Callable[..., SiteProcess], make_member: Callable[..., NodeProcess], community: Community
) -> None:
    ours, nodes = free(), free()
    site = make_site(community.service.url, "", metrics=ours)
    make_member(site, "worker", metrics=nodes)
    site.wait(lambda client: any(one.reported is not None for one in client.nodes()))
    text = scraped(ours)
    assert 'partita_site_nodes{state="ready"} 1.0' in text
    assert 'partita_site_machines{state="running"} 0.0' in text
    assert 'partita_site_node_report_timestamp_seconds{node="worker"} 1.' in text
    text = scraped(nodes)
    assert 'partita_node_machines{state="running"} 0.0' in text
    assert 'partita_node_cache_bytes{part="quota"} 1.073741824e+09' in text


def test_paths_of_strangers_are_no_labels() -> None:
    requests = RequestMetrics()
    requests.answered("GET", "/v1/images", 200, 0.1)
    with expose_metrics("127.0.0.1:0", lambda: [gauge("things", "Things.", 3)], requests) as url:
        text = scraped(url.removeprefix("http://").removesuffix("/metrics"))
    assert "partita_things 3.0" in text
    assert 'route="/v1/images"' in text


def test_an_address_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match="cannot expose metrics there"), expose_metrics(listen, list):
            pass
    with pytest.raises(Misused, match="at most 65535"), expose_metrics("127.0.0.1:70000", list):
        pass


def test_without_an_address_nothing_listens() -> None:
    with expose_metrics("", list) as url:
        assert url == ""


@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_alerts_are_what_promtool_takes(command: tuple[str, ...]) -> None:
    checked = subprocess.run(
        ["promtool", *command], cwd=OPERATIONS, capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
