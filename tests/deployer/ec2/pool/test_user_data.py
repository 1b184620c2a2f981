"""What a guest at EC2 is told: read back as a guest would, its timer and its disk maker run as a guest runs them."""

import base64
import email
import gzip
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from catalog.image.manifest import Blank
from deployer.ec2.aws.tags import END_TAG
from deployer.ec2.model.boot_mapping import Volume
from deployer.ec2.pool.user_data import MERGE, TIMER, blanks_script, build_user_data
from deployer.errors import UserDataRefused
from deployer.machine.user_data import MAX_USER_DATA
from deployer.protocol.desired_state import BrokerAccess, DesiredMachine
from tests.deployer.ec2.pool.test_reconciler import machine

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhc2U2NCBpcyBub3QgY2hlY2tlZCBoZXJlCg== ann@example"


def told(wanted: DesiredMachine, *volumes: Volume) -> list[tuple[str, bytes, Message]]:
    """The parts as a guest reads them: (type, bytes, part)."""
    data = build_user_data(wanted, volumes)
    assert len(data) <= MAX_USER_DATA
    message = email.message_from_bytes(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
    assert message["MIME-Version"]  # by which cloud-init knows a MIME message
    found = []
    for part in message.walk():
        if not part.is_multipart():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found.append((part.get_content_type(), content, part))
    return found


def given(data: bytes) -> DesiredMachine:
    return machine(user_data=base64.b64encode(data).decode())


def test_the_site_comes_first_and_what_was_given_last_unchanged() -> None:
    script = b"#!/bin/sh\necho '--partita-' \xc3\xa9\n"
    wanted = given(script).model_copy(update={"public_keys": (KEY,), "hostname": "w1.example.org"})
    parts = told(wanted)
    assert [kind for kind, _, _ in parts] == ["text/cloud-boothook", "text/cloud-config", "text/x-shellscript"]
    assert parts[0][1].startswith(b"#cloud-boothook\n#!/bin/sh\n")
    config = yaml.safe_load(parts[1][1])
    assert config == {"hostname": "w1.example.org", "preserve_hostname": False, "ssh_authorized_keys": [KEY]}
    assert parts[2][1] == script


def test_a_users_cloud_config_adds_to_the_sites_and_replaces_nothing_of_it() -> None:
    parts = told(given(b"#cloud-config\nhostname: other\npackages: [vim]\n"))
    assert parts[-1][0] == "text/cloud-config"
    assert parts[-1][2]["Merge-Type"] == MERGE


def test_a_users_mime_message_is_read_part_by_part() -> None:
    inner = (
        b'Content-Type: multipart/mixed; boundary="x"\nMIME-Version: 1.0\n\n--x\nContent-Type: text/x-shellscript\n\n'
        b"#!/bin/sh\necho one\n--x--\n"
    )
    assert told(given(inner))[-1][:2] == ("text/x-shellscript", b"#!/bin/sh\necho one")


def test_gzip_is_handed_on() -> None:
    data = gzip.compress(b"#!/bin/sh\n", mtime=0)
    assert told(given(data))[-1][:2] == ("application/gzip", data)


def test_what_the_site_adds_and_the_context_agent_are_there() -> None:
    context = BrokerAccess(url="http://broker.example:8080", secret="s" * 32)
    site = base64.b64encode(b"#cloud-config\nntp: {enabled: true}\n").decode()
    parts = told(machine(context=context, vendor_data=site))
    assert [kind for kind, _, _ in parts] == [
        "text/cloud-boothook",
        "text/cloud-config",
        "text/x-shellscript",
        "text/cloud-config",
    ]
    agent = parts[2][1]
    assert agent.startswith(b"#!/bin/sh\n")
    subprocess.run(["sh", "-n"], input=agent, check=True)
    line = next(line for line in agent.splitlines() if b"base64 -d" in line)
    assert b"secret=" + b"s" * 32 in base64.b64decode(line.split(b"echo ")[1].split(b" ")[0])


def test_the_same_machine_is_told_the_same_again() -> None:
    wanted = given(b"#!/bin/sh\n" + b"# words\n" * 2000)
    assert build_user_data(wanted, ()) == build_user_data(wanted, ())


def test_what_fits_only_when_packed_is_packed_and_what_does_not_is_refused() -> None:
    assert build_user_data(given(b"#!/bin/sh\n"), ())[:1] == b"C"
    assert build_user_data(given(b"#!/bin/sh\n" + b"# words\n" * 2000), ())[:2] == b"\x1f\x8b"
    with pytest.raises(UserDataRefused, match="more than the 16384 that EC2 allows"):
        build_user_data(given(b"#!/bin/sh\n# " + base64.b64encode(os.urandom(12000))[:16000]), ())


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2: a token by PUT, and nothing without it."""

    ends = ""

    def do_PUT(self) -> None:
        self._say(b"token" if self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else b"", 200)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "token":
            self._say(b"", 401)
        elif self.path == f"/latest/meta-data/tags/instance/{END_TAG}" and type(self).ends:
            self._say(type(self).ends.encode(), 200)
        else:
            self._say(b"", 404)

    def _say(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def metadata() -> Iterator[tuple[type[Metadata], str]]:
    handler = type("Own", (Metadata,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_address[1]}/latest"
    server.shutdown()
    thread.join()
    server.server_close()


def run_timer(tmp_path: Path, ends: datetime, url: str) -> "tuple[subprocess.Popen[bytes], Path]":
    """The timer as a guest runs it; powering off leaves a file instead."""
    tools, off = tmp_path / "bin", tmp_path / "off"
    tools.mkdir()
    (tools / "shutdown").write_text(f"#!/bin/sh\ntouch {off}\n")
    (tools / "shutdown").chmod(0o755)
    (tmp_path / "timer").write_text(TIMER)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "http_proxy": "http://127.0.0.1:1"}
    command = ["sh", str(tmp_path / "timer"), str(int(ends.timestamp())), url]
    return subprocess.Popen(command, env=environment), off


def test_a_guest_powers_off_at_its_end_without_anybody(tmp_path: Path) -> None:
    timer, off = run_timer(tmp_path, datetime.now(UTC) + timedelta(seconds=2), "http://127.0.0.1:1/latest")
    assert timer.wait(60) == 0
    assert off.exists()


def test_a_guest_learns_of_another_end_by_its_tags(tmp_path: Path, metadata: tuple[type[Metadata], str]) -> None:
    handler, url = metadata
    now = datetime.now(UTC).replace(microsecond=0)
    handler.ends = (now + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    timer, off = run_timer(tmp_path, now - timedelta(hours=1), url)  # long over, as it was told first
    try:
        time.sleep(2)
        assert timer.poll() is None
        assert not off.exists()
    finally:
        timer.kill()
        timer.wait()
    handler.ends = (now - timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    (tmp_path / "second").mkdir()
    timer, off = run_timer(tmp_path / "second", now + timedelta(hours=1), url)
    assert timer.wait(60) == 0
    assert off.exists()


def test_a_damaged_tag_changes_nothing(tmp_path: Path, metadata: tuple[type[Metadata], str]) -> None:
    handler, url = metadata
    handler.ends = "tomorrow; reboot"
    timer, off = run_timer(tmp_path, datetime.now(UTC) - timedelta(seconds=1), url)
    assert timer.wait(60) == 0
    assert off.exists()


BLANKS = (
    Volume("/dev/sdf", 1, blank=Blank(size=1 << 30, filesystem="ext4", label="scratch")),
    Volume("/dev/sdg", 2, blank=Blank(size=2 << 30, filesystem="swap", label="")),
    Volume("/dev/sdh", 1, blank=Blank(size=1 << 30, filesystem="none")),
)


def test_blanks_are_made_once_on_unused_disks_of_their_size(tmp_path: Path) -> None:
    hook = told(machine(), *BLANKS)[0][1].decode()
    assert "1073741824 ext4 scratch\n2147483648 swap\nWANTED" in hook
    subprocess.run(["sh", "-n"], input=hook.encode(), check=True)
    # The script on files that a stand-in for lsblk calls disks: one is in use, one is of another size.
    disks = {"a": 1, "b": 1, "c": 2, "d": 3}
    for name, gib in disks.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(gib << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "mine", str(tmp_path / "a")], check=True)
    tools = tmp_path / "bin"
    tools.mkdir()
    lines = "".join(f"echo {tmp_path / name} {gib << 30} disk\n" for name, gib in disks.items())
    (tools / "lsblk").write_text(f'#!/bin/sh\ncase "$1" in -bdnpr) {lines} ;; *) echo "$4" ;; esac\n')
    (tools / "lsblk").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PARTITA_STATE": str(tmp_path / "state")}
    script = blanks_script(["1073741824 ext4 scratch", "2147483648 swap"])
    for _ in range(2):
        subprocess.run(["sh"], input=script.encode(), env=environment, check=True)

    def label(name: str) -> str:
        tell = ["blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "LABEL", str(tmp_path / name)]
        return " ".join(subprocess.run(tell, capture_output=True, text=True, check=False).stdout.split())

    assert {name: sorted(label(name).split()) for name in disks} == {
        "a": ["ext4", "mine"],
        "b": ["ext4", "scratch"],
        "c": ["swap"],
        "d": [],
    }
