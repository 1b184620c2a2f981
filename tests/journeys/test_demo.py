"""Whole journeys, with the commands that users type: the demo, and a real Debian with cloud-init."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from examples.debian.build import build
from examples.demo import Demo, policy, wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(480)
def test_the_demo_ends_with_two_guests_a_refusal_and_a_cluster() -> None:
    """`./dev demo` as a user runs it, without a terminal."""
    ended = subprocess.run(
        [sys.executable, "-m", "examples.demo"], cwd=ROOT, capture_output=True, text=True, timeout=450, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    for words in (
        "partita-guest: host name worker-1",
        "partita-guest: host name worker-2",
        "partita-guest: mounted data on /srv/data",
        "moved for worker-2: 0 bytes; of the image copied: 0",
        "no endorser is trusted for VO elsewhere",
    ):
        assert words in ended.stdout
    assert ended.stdout.count("found star-head-1 at 10.77.0.") == 2
    assert (ROOT / "build" / "console.png").read_bytes().startswith(b"\x89PNG")
    assert f"the site's console: {ROOT / 'build' / 'console.png'}" in ended.stdout
    assert "DATA IS WRITABLE" not in ended.stdout


class Reports:
    """An HTTP server on loopback that keeps what cloud-init's phone_home posts to it."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.arrived = threading.Event()
        reports = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                reports.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                reports.arrived.set()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(900)
def test_a_real_debian_reports_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Built, imported as a whole GPT disk, endorsed, published, deployed; its cloud-init calls home by its own name."""
    root = tmp_path_factory.mktemp("deb")
    disk = root / "debian.raw"
    build(disk)
    site, reports = Demo(root), Reports()
    try:
        site.shown(
            "image", "import", str(disk), "--format", "raw", "--vo", "star", "--name", "debian", "--version", "12.0",
            "--os", "debian/12", "--boot", "bios", "--memory", "512MiB", "--cores", "1", "-o", str(root / "image"),
        )  # fmt: skip
        fingerprint = site.asked("key", "new", "STAR <images@star.example>")["fingerprint"]
        site.shown("key", "export", "-o", str(root / "star.asc"))
        site.shown("endorse", str(root / "image"))
        ready = root / "catalog.ready"
        with site.service("catalog", "serve", "--listen", "127.0.0.1:0", "--ready-file", str(ready), ready=ready):
            url = ready.read_text().strip()
            site.settings["catalog"]["url"] = site.settings["node"]["catalog"] = url
            site.write_settings()
            site.shown("vo", "register", "star", "--key", str(root / "star.asc"))
            site.shown("publish", str(root / "image"))
            policy(root, fingerprint)
            site.shown("node", "trust-root", str(root / "catalog" / "tuf" / "root.json"))
            user_data = root / "user-data"
            user_data.write_text(
                f"#cloud-config\nruncmd:\n  - echo partita-guest swap $(swapon --show=SIZE --noheadings) > /dev/ttyS0\n"
                f"phone_home:\n  url: http://10.0.2.2:{reports.port}/$INSTANCE_ID\n  post: [hostname, instance_id]\n"
            )
            ready = root / "node.ready"
            with site.service("node", "serve", "--end-machines", "--ready-file", str(ready), ready=ready):
                site.shown(
                    "deploy", "star/debian@12.0", "--hostname", "deb-1", "--memory", "512MiB", "--lifetime", "1h",
                    "--network", "user", "--user-data", str(user_data),
                )  # fmt: skip
                assert reports.arrived.wait(300), site.machine_console("deb-1")
                assert "hostname=deb-1" in reports.received[0]
                machine = site.asked("machine", "show", "deb-1")
                assert f"iid-{machine['uuid']}" in reports.received[0].replace("%2D", "-")
                # The swap partition was not shipped: the node made it, and the guest uses it.
                assert "partita-guest swap 128M" in wait_for(site, machine["uuid"], "partita-guest swap")
                site.shown("machine", "shutdown", "deb-1", "--wait")
    finally:
        reports.close()
