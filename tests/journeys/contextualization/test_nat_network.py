"""A cluster of real guests on a NAT network with dnsmasq, in namespaces that nothing gets out of."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.network_namespaces import Network, unavailable

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(900)
def test_a_cluster_finds_itself_on_a_nat_network(tmp_path: Path) -> None:
    """All of `inside_nat`: the guests get addresses by DHCP, the site sees them, and the workers find their head by name."""
    if reason := unavailable():
        pytest.skip(reason)
    if lacking := [tool for tool in ("libvirtd", "dnsmasq", "iptables", "unshare") if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(lacking)} missing")
    tests = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", "-p", "no:xdist"]
    # Processes that are left in there end with the network, also those that made themselves independent.
    with Network() as network, (tmp_path / "log").open("w+") as log:
        inside = network.host("nat").popen(
            [
                *("unshare", "--mount", "--propagation", "private"),
                *tests,
                *("--basetemp", str(tmp_path / "inside"), "tests/journeys/contextualization/inside_nat.py"),
            ],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            stdout=log,
            stderr=log,
        )
        code = inside.wait(800)
        log.seek(0)
        said = log.read()
    assert code == 0, said[-20_000:]
    assert "1 passed" in said
