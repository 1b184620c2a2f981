"""A catalog and a node with one command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.client.client import CatalogClient
from deployer.node.client import NodeClient
from tests.support.node.community import Community
from tests.support.node.service_process import policy

pytestmark = pytest.mark.guest


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="pu-", dir="/tmp") as place:
        yield Path(place)


def test_up_runs_catalog_and_node_and_ends_both(short: Path, community: Community, warm: Path) -> None:
    shutil.copytree(warm, short / "node" / "libvirt" / "cache")
    (short / "policy.toml").write_text(policy(community.star.anchor()))
    environment = os.environ | {
        "PARTITA_CATALOG_LISTEN": "127.0.0.1:0",
        "PARTITA_CATALOG_TUF_BITS": "6",
        "PARTITA_DEPLOY_POLICY": str(short / "policy.toml"),
        "PARTITA_DEPLOY_ACCELERATOR": "tcg",
        "PARTITA_DEPLOY_NETWORK": "none",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "partita", "up", "--directory", str(short), "--json"]
    with (
        (short / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log) as up,
    ):
        try:
            assert up.stdout is not None
            said = b""
            while not said.endswith(b"}\n"):
                line = up.stdout.readline()
                assert line, (short / "log").read_text()
                said += line
            ready = json.loads(said)
            with NodeClient(Path(ready["socket"])) as client:
                assert client.status().catalog == ready["catalog"]
            with CatalogClient(ready["catalog"]) as catalog:
                assert list(catalog.images()) == []
        finally:
            up.send_signal(signal.SIGINT)
            output, _ = up.communicate(timeout=60)
    assert up.returncode == 0, (short / "log").read_text()
    assert output == b""
    assert ready["socket"] == str(short / "node" / "node.sock")
    lines = (short / "log").read_text()
    assert "catalog | " in lines
    assert "   node | " in lines
    assert not (short / "node" / "node.sock").exists()
