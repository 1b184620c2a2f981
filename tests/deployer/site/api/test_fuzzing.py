"""The whole API under schemathesis: whatever is sent that the OpenAPI document allows, or nearly, no answer is a 5xx."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node.community import Community
from tests.support.node.service_process import policy
from tests.support.site.service_process import PaperNode, SiteProcess
from tests.support.site.unix_socket_bridge import bridge

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
ENDLESS = "/v2/events/stream"
"""A stream: another test reads it."""


@pytest.fixture
def site(community: Community) -> Iterator[SiteProcess]:
    """A site with a node and some machines to play with."""
    text = policy(community.star.anchor(), machines=1000)
    with SiteProcess(community.service.url, text, broker_listen="127.0.0.1:0") as found:
        PaperNode(found, "worker07", cores=1000, memory=1 << 40)
        found.deploy(count=2)
        yield found


def run(url: str, place: Path, *options: str) -> str:
    """Run it; returns what it says if it found something."""
    command = [SCHEMATHESIS, "run", f"{url}/openapi.json", "--checks", "not_a_server_error", "--no-color"]
    command += ["--generation-database", "none", "--seed", "1", "--suppress-health-check", "all", *options]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else ended.stdout[-6000:] + ended.stderr[-2000:]


def test_nothing_that_an_operator_may_send_breaks_the_service(site: SiteProcess, tmp_path: Path) -> None:
    """Every route, by somebody who may do everything."""
    _fuzz(site, tmp_path, examples=3, phases="examples,fuzzing")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_breaks_the_service_for_longer(site: SiteProcess, tmp_path: Path) -> None:
    """The same with many more tries."""
    _fuzz(site, tmp_path, examples=100, phases="examples,coverage,fuzzing,stateful")


def _fuzz(site: SiteProcess, place: Path, examples: int, phases: str) -> None:
    count = ["--max-examples", str(examples), "--phases", phases]
    with bridge(site.directory / "site.sock") as url:
        found = run(url, place, "--exclude-path", ENDLESS, *count)
    assert found == ""
    with site.client() as client:
        client.status()
