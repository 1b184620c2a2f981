"""NoCloud seeds: the small ISO 9660 disk from which cloud-init learns what a machine is called and what to do.

Everything is data until it is written: YAML comes from a dumper, never from templates, so that no host name or key can
bring a line of its own. The only door to pycdlib. Equal input gives equal bytes: all dates are those of EPOCH.
"""

import base64
import binascii
import io
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pycdlib
import yaml
from pycdlib.pycdlibexception import PyCdlibException

from catalog.errors import Misused
from deployer.errors import AssemblyFailed
from deployer.machine.spec import check_hostname
from deployer.machine.user_data import check_user_data

LABEL = "cidata"
"""The volume label by which cloud-init's NoCloud source finds a seed."""

MAX_KEYS = 64
MAX_KEY = 8 << 10
"""Keys, and bytes in each: an RSA key of 16384 bits takes three thousand."""

SECTOR = 2048
PADDING = 150 * SECTOR
"""Bytes of zeros after the volume. Guests that look for labels (busybox) read the first 68 KiB of a disk and skip what is
shorter; the number of sectors is what CD writing tools have always added."""

_NAMES: Final = {
    "user-data": "USERDATA",
    "meta-data": "METADATA",
    "vendor-data": "VENDORDA",
    "network-config": "NETWORKC",
    "partita-context": "PARTITAC",
    "partita-context.sh": "PARTITAS",
}
_KEY_TYPES: Final = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def instance_id(uuid: str) -> str:
    """cloud-init's name for one life of a machine: a new one means "first boot", so it comes from the machine's UUID."""
    return f"iid-{uuid}"


def build_seed(
    instance: str,
    hostname: str,
    user_data: bytes | None = None,
    *,
    network_config: Mapping[str, Any] | None = None,
    public_keys: Sequence[str] = (),
    vendor_data: Mapping[str, Any] | bytes | None = None,
    extras: Mapping[str, bytes] | None = None,
) -> bytes:
    """The bytes of a seed (cloud-init, "NoCloud"): label cidata, ISO 9660 with Joliet and Rock Ridge names.

    Args:
        instance: the instance-id, as from `instance_id`.
        hostname: RFC 1123, lower case.
        user_data: of a kind that the policy has accepted; None leaves the file empty.
        network_config: version 1 or 2, without a top-level `network`.
        public_keys: OpenSSH public keys, one line each, without options.
        vendor_data: the site's own cloud-config, or bytes of any kind that cloud-init runs.
        extras: the files of contextualization, by name; see `context_agent.seed_extras`.

    Raises:
        Misused: an instance-id, host name, key or network configuration that is not of its form.
        UserDataRefused: see `user_data.check_user_data`.
    """
    if not _INSTANCE.fullmatch(instance):
        raise Misused(f"{instance[:80]!r} is not a valid instance-id: use letters, digits, dots, hyphens, at most 128")
    try:
        check_hostname(hostname)
    except ValueError as exc:
        raise Misused(str(exc)) from exc
    if user_data:
        check_user_data(user_data)
    if len(public_keys) > MAX_KEYS:
        raise Misused(f"{len(public_keys)} public keys are more than the {MAX_KEYS} that a seed carries")
    meta: dict[str, Any] = {"instance-id": instance, "local-hostname": hostname}
    if public_keys:
        meta["public-keys"] = [check_public_key(key) for key in public_keys]
    files = {"user-data": user_data or b"", "meta-data": _yaml(meta)}
    match vendor_data:
        case bytes():
            files["vendor-data"] = vendor_data
        case Mapping():
            files["vendor-data"] = b"#cloud-config\n" + _yaml(vendor_data)
    if network_config is not None:
        _check_network(network_config)
        files["network-config"] = _yaml(network_config)
    return _iso(files | dict(extras or {}))


def write_seed(path: Path, seed: bytes) -> None:
    """Write a seed where none is yet, readable by its owner only: user-data may hold secrets."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - an open descriptor, made exclusively
            file.write(seed)
    except OSError as exc:
        raise AssemblyFailed(f"{path}: the seed cannot be written: {exc.strerror}") from exc


def check_public_key(key: str) -> str:
    """One line, a known type, and a blob that says the same type (RFC 4253, section 6.6); Misused if it is not."""
    line = key.strip("\n")
    kind, _, rest = line.partition(" ")
    blob, _, comment = rest.partition(" ")
    if len(line) > MAX_KEY or not line.isprintable():
        raise Misused(f"the public key {line[:40]!r} is not one printable line of at most {MAX_KEY} characters")
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if kind not in _KEY_TYPES or not data.startswith(struct.pack(">I", len(kind)) + kind.encode()):
        raise Misused(
            f"{line[:40]!r} is not an OpenSSH public key; give the line of an id_ed25519.pub, id_ecdsa.pub or id_rsa.pub, "
            "without options before it"
        )
    return f"{kind} {blob} {comment}".strip()


def _check_network(config: Mapping[str, Any]) -> None:
    if "network" in config:
        raise Misused("a seed's network configuration has no top-level 'network'; give what stands inside it")
    if config.get("version") not in (1, 2):
        raise Misused("a seed's network configuration has 'version: 1' or 'version: 2'")


def _yaml(value: Mapping[str, Any]) -> bytes:
    try:
        # Never folded: guests without a YAML reader find "key: value" lines.
        text = yaml.safe_dump(dict(value), sort_keys=False, width=float("inf"), default_flow_style=False)
    except yaml.YAMLError as exc:
        raise Misused(f"a seed carries plain values only: {exc}") from exc
    return text.encode()


def _iso(files: Mapping[str, bytes]) -> bytes:
    iso = pycdlib.PyCdlib()
    out = io.BytesIO()
    try:
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
        for name, data in files.items():
            iso.add_fp(
                io.BytesIO(data),
                len(data),
                f"/{_NAMES[name]}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
                file_mode=0o100444,
            )
        iso.write_fp(out)
        iso.close()
    except PyCdlibException as exc:
        raise AssemblyFailed(f"the seed cannot be built: {exc}") from exc
    image = bytearray(out.getvalue())
    _fix_dates(image)
    return bytes(image) + bytes(PADDING)


# ECMA-119: 8.4 (volume descriptors), 9.1 (directory records, 9.1.5 their date), 8.4.26.1 (a volume's dates);
# Rock Ridge 1.12, 4.1.6 (TF). The library stamps the hour and the time zone of the machine it runs on.
EPOCH: Final = bytes([100, 1, 1, 0, 0, 0, 0])
"""2000-01-01T00:00:00Z as a directory record has it: years since 1900, ..., quarters of an hour from Greenwich."""

_VOLUME_EPOCH: Final = b"2000010100000000\x00"
_UNSET: Final = b"0" * 16 + b"\x00"
_VOLUME_DATES: Final = ((813, _VOLUME_EPOCH), (830, _VOLUME_EPOCH), (847, _UNSET), (864, _UNSET))


def _fix_dates(image: bytearray) -> None:
    """Put EPOCH wherever the format has a date."""
    for sector in range(16, len(image) // SECTOR):
        start = sector * SECTOR
        kind = image[start]
        if kind == 255:
            return
        if kind in (1, 2):
            for offset, date in _VOLUME_DATES:
                image[start + offset : start + offset + 17] = date
            root = start + 156
            image[root + 18 : root + 25] = EPOCH
            extent, length = struct.unpack_from("<I", image, root + 2)[0], struct.unpack_from("<I", image, root + 10)[0]
            for record in _records(image, extent * SECTOR, length):
                image[record + 18 : record + 25] = EPOCH
                _fix_rock_ridge(image, record)


def _records(image: bytearray, start: int, length: int) -> Iterator[int]:
    """Offsets of the records of a directory; none crosses a sector."""
    for sector in range(start, start + length, SECTOR):
        at = sector
        while at < sector + SECTOR and image[at]:
            yield at
            at += image[at]


def _fix_rock_ridge(image: bytearray, record: int) -> None:
    """The TF entry of a record: a byte of flags, then seven bytes for each date that is there."""
    name = image[record + 32]
    at = record + 33 + name + (name % 2 == 0)
    end = record + image[record]
    while at + 4 <= end and image[at + 2] >= 4:
        size = image[at + 2]
        if image[at : at + 2] == b"TF":
            for date in range(at + 5, at + size - 6, 7):
                image[date : date + 7] = EPOCH
        at += size
