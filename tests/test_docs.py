"""Every command in the documentation is run: each document's ```sh blocks, in order, as one script in a place of its own.

A line that ends in `&` starts a service; the script goes on when it has said that it is ready. What runs elsewhere in the
suite, or cannot run twice, is named in RUN_ELSEWHERE with the place where it runs.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "policies" / "README.md"]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PRELUDE = """\
set -eu
ready() {  # LOG: until the service that writes there has said so
  for _ in $(seq 300); do grep -q ready "$1" 2>/dev/null && return 0; sleep 0.1; done
  echo "not ready:"; cat "$1"; return 1
}
"""


def script(document: Path) -> str:
    """The commands of a document, with every service started behind the script's back."""
    lines = []
    for number, line in enumerate("".join(BLOCK.findall(document.read_text())).splitlines()):
        bare = line.split(" #")[0].rstrip()
        if bare.endswith("&"):
            lines.append(
                f"{bare.removesuffix('&')} >service{number}.log 2>&1 & echo $! >>services; ready service{number}.log"
            )
        else:
            lines.append(line)
    return PRELUDE + "\n".join(lines) + "\n"


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


WITH_COMMANDS = [document for document in DOCUMENTS if BLOCK.search(document.read_text())]


@pytest.mark.guest
@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_document(document: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The script ends without an error, and what it started ends with it."""
    place = Path(tmp_path_factory.mktemp("docs"))
    for name in ("examples", "policies"):
        (place / name).symlink_to(ROOT / name)
    port = free_port()
    (place / "settings.toml").write_text(
        f"[signer]\nhome = '{place}/keys'\n"
        f"[catalog]\ndirectory = '{place}/catalog'\nlisten = '127.0.0.1:{port}'\nurl = 'http://127.0.0.1:{port}'\n"
        f"[node]\ndirectory = '{place}/node'\ncatalog = 'http://127.0.0.1:{port}'\n"
        f"[site]\ndirectory = '{place}/site'\ncatalog = 'http://127.0.0.1:{port}'\nlisten = '127.0.0.1:0'\n"
    )
    environment = {
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PARTITA_CONFIG": str(place / "settings.toml"),
    }
    log = place / "script.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", script(document)],
            cwd=place,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(200)
        finally:
            _end_services(place)
    shutil.rmtree(place / "catalog", ignore_errors=True)
    assert code == 0, log.read_text()[-4000:]


def _end_services(place: Path) -> None:
    """End what the script started, node services with their machines first."""
    if not (place / "services").exists():
        return
    environment = os.environ | {"PARTITA_CONFIG": str(place / "settings.toml"), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "partita", "machine", "destroy", "--all"],
        env=environment,
        capture_output=True,
        check=False,
    )
    for pid in (place / "services").read_text().split():
        try:
            os.kill(int(pid), signal.SIGTERM)
        except ProcessLookupError:
            continue
