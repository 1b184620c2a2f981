"""Seeds, read back with other people's tools; what must not become a line of its own."""

import base64
import hashlib
import io
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pycdlib
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import Misused
from deployer.errors import AssemblyFailed, UserDataRefused
from deployer.guest.nocloud_seed import MAX_KEYS, build_seed, instance_id, write_seed
from deployer.machine.user_data import MAX_USER_DATA

UUID = "0f1e2d3c-0000-4000-8000-000000000001"


def public_key(kind: str = "ssh-ed25519", comment: str = "alice@star") -> str:
    blob = struct.pack(">I", len(kind)) + kind.encode() + struct.pack(">I", 32) + bytes(range(32))
    return f"{kind} {base64.b64encode(blob).decode()} {comment}"


KEY = public_key()


def files(seed: bytes) -> dict[str, bytes]:
    """What pycdlib reads from an ISO, by Joliet name."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(seed))
    found = {}
    for child in iso.list_children(joliet_path="/"):
        if child.is_file():
            name = child.file_identifier().decode("utf-16-be")
            out = io.BytesIO()
            iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
            found[name] = out.getvalue()
    iso.close()
    return found


def test_a_whole_seed_is_read_back_by_other_tools(tmp_path: Path) -> None:
    user_data = b"#cloud-config\nruncmd: [[echo, hello]]\n"
    network = {"version": 2, "ethernets": {"any": {"match": {"name": "e*"}, "dhcp4": True}}}
    path = tmp_path / "seed.iso"

    write_seed(
        path,
        build_seed(
            instance_id(UUID),
            "worker-1.star.example",
            user_data,
            network_config=network,
            public_keys=[KEY],
            vendor_data={"timezone": "UTC"},
        ),
    )

    blkid = subprocess.run(["blkid", "-p", "-o", "export", path], capture_output=True, text=True, check=True).stdout
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(blkid.splitlines())
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", path, "-extract", "/", tmp_path / "out"],
        capture_output=True,
        check=True,
    )
    out = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert set(out) == {"user-data", "meta-data", "vendor-data", "network-config"}
    assert out == files(path.read_bytes())
    assert out["user-data"] == user_data
    assert yaml.safe_load(out["network-config"]) == network
    assert out["vendor-data"].startswith(b"#cloud-config\n")
    assert yaml.safe_load(out["vendor-data"]) == {"timezone": "UTC"}
    assert yaml.safe_load(out["meta-data"]) == {
        "instance-id": f"iid-{UUID}",
        "local-hostname": "worker-1.star.example",
        "public-keys": [KEY],
    }


def test_both_files_are_there_even_where_there_is_nothing_to_say() -> None:
    found = files(build_seed(instance_id(UUID), "a"))

    assert found["user-data"] == b""
    assert found["meta-data"] == f"instance-id: iid-{UUID}\nlocal-hostname: a\n".encode()
    assert set(found) == {"user-data", "meta-data"}


ELSEWHERE = """
import sys, time
moment = float(sys.argv[1])
time.time = lambda: moment
from deployer.guest.nocloud_seed import build_seed
from hashlib import sha256
print(sha256(build_seed("iid-1", "a", b"#!/bin/sh", public_keys=[sys.argv[2]], vendor_data={"a": 1})).hexdigest())
"""


def test_the_same_input_gives_the_same_bytes_whenever_and_wherever() -> None:
    here = hashlib.sha256(build_seed("iid-1", "a", b"#!/bin/sh", public_keys=[KEY], vendor_data={"a": 1})).hexdigest()
    for moment, zone in (("86400", "Asia/Kathmandu"), ("4000000000", "America/St_Johns")):
        there = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, moment, KEY],
            env={"TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here


def test_other_input_gives_other_bytes() -> None:
    assert build_seed("iid-1", "a") != build_seed("iid-2", "a")


def test_a_seed_may_carry_as_much_user_data_as_is_allowed() -> None:
    data = b"#!" + b"x" * (MAX_USER_DATA - 2)

    assert files(build_seed("iid-1", "a", data))["user-data"] == data


def test_a_seed_is_private_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    write_seed(path, b"one")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AssemblyFailed, match="cannot be written: File exists"):
        write_seed(path, b"two")
    assert path.read_bytes() == b"one"
    with pytest.raises(AssemblyFailed, match="No such file"):
        write_seed(tmp_path / "nowhere" / "seed.iso", b"")


INJECTIONS = [
    ("a line in the host name", {"hostname": "a\nuser-data: x"}, "is not a valid host name"),
    ("a carriage return in the host name", {"hostname": "a\rb"}, "is not a valid host name"),
    ("a colon in the host name", {"hostname": "a: b"}, "is not a valid host name"),
    ("a YAML tag as host name", {"hostname": "!!python/none"}, "is not a valid host name"),
    ("a template as host name", {"hostname": "{{ ds.meta_data }}"}, "is not a valid host name"),
    ("shell in the host name", {"hostname": "a;reboot"}, "is not a valid host name"),
    ("a line in the instance-id", {"instance": "iid-1\nlocal-hostname: b"}, "is not a valid instance-id"),
    ("an empty instance-id", {"instance": ""}, "is not a valid instance-id"),
    ("a path as instance-id", {"instance": "../../x"}, "is not a valid instance-id"),
    ("two keys in one", {"public_keys": [f"{KEY}\n{KEY}"]}, "not one printable line"),
    ("a key with a line of YAML", {"public_keys": [f"{KEY}\nruncmd: [reboot]"]}, "not one printable line"),
    ("a key with a carriage return", {"public_keys": [f"{KEY}\r- x"]}, "not one printable line"),
    ("a key with a Unicode line end", {"public_keys": [f"{KEY}\u2028x"]}, "not one printable line"),
    ("a key with a terminal escape", {"public_keys": [f"{KEY}\x1b[2J"]}, "not one printable line"),
    ("a key with options before it", {"public_keys": [f'command="reboot" {KEY}']}, "not an OpenSSH public key"),
    ("a key of an old kind", {"public_keys": [public_key("ssh-dss")]}, "not an OpenSSH public key"),
    ("a key that says another kind inside", {"public_keys": [KEY.replace("ssh-ed25519", "ssh-rsa")]}, "not an OpenSSH"),
    ("a key that is no base64", {"public_keys": ["ssh-ed25519 AAAA$(reboot)"]}, "not an OpenSSH public key"),
    ("a key with nothing in it", {"public_keys": ["ssh-ed25519"]}, "not an OpenSSH public key"),
    ("no key at all", {"public_keys": [""]}, "not an OpenSSH public key"),
    ("a huge key", {"public_keys": [KEY + "x" * 9000]}, "not one printable line"),
    ("too many keys", {"public_keys": [KEY] * (MAX_KEYS + 1)}, "more than the 64"),
    ("a network under a network", {"network_config": {"network": {"version": 2}}}, "no top-level 'network'"),
    ("a network of no version", {"network_config": {"ethernets": {}}}, "'version: 1' or 'version: 2'"),
    ("a network that is no plain value", {"network_config": {"version": 2, "x": object()}}, "plain values only"),
]


@pytest.mark.parametrize(("sentence", "changes", "says"), INJECTIONS, ids=[row[0] for row in INJECTIONS])
def test_what_cannot_stand_in_a_seed(sentence: str, changes: dict[str, object], says: str) -> None:
    arguments: dict[str, object] = {"instance": instance_id(UUID), "hostname": "a"} | changes

    with pytest.raises(Misused, match=says):
        build_seed(**arguments)  # type: ignore[arg-type]


def test_user_data_is_looked_at_here_too() -> None:
    with pytest.raises(UserDataRefused):
        build_seed("iid-1", "a", b"hello")


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"]), max_size=80))
def test_no_comment_of_a_key_becomes_anything_else(comment: str) -> None:
    key = public_key(comment=comment)
    try:
        seed = build_seed("iid-1", "a", public_keys=[key])
    except Misused:
        assert not key.isprintable()  # such as a space of another script
        return

    meta = yaml.safe_load(files(seed)["meta-data"])

    assert meta == {"instance-id": "iid-1", "local-hostname": "a", "public-keys": [key.strip()]}
