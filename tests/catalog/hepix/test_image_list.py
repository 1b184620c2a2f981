"""HEPiX image lists: what we sign stock openssl verifies; what others sign is believed only when everything fits."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.errors import (
    Malformed,
    Unverified,
)
from catalog.hepix.image_list import read_list, version_order, write_list
from signer.verification.smime import read_message, verify_message
from tests.support.catalog.image_lists import ANN_DN, TWO, World
from tests.support.grid_ca import DAY

# The message


def test_stock_openssl_verifies_what_we_sign(world: World, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(world.sign(world.list()))
    (tmp_path / "ca").write_bytes(world.ca.pem())
    command = ["openssl", "smime", "-verify", "-in", "list", "-CAfile", "ca", "-purpose", "any", "-out", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert json.loads((tmp_path / "out").read_bytes()) == json.loads(write_list(world.list()))


@pytest.mark.parametrize("options", [(), ("-binary",), ("-text",)])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_we_verify_what_stock_openssl_signs(
    world: World, tmp_path: Path, options: tuple[str, ...], ends: bytes
) -> None:
    (tmp_path / "c").write_bytes(world.ann.pem)
    (tmp_path / "k").write_bytes(world.ann.key_pem)
    (tmp_path / "d").write_bytes(write_list(world.list()) + b"\n")
    command = ["openssl", "smime", "-sign", "-md", "sha256", "-signer", "c", "-inkey", "k", "-in", "d", "-out", "s"]
    subprocess.run([*command, *options], cwd=tmp_path, check=True, capture_output=True)
    message = (tmp_path / "s").read_bytes()
    if "-binary" not in options:  # mail changes line ends, and what is signed does not depend on them
        message = message.replace(b"\r\n", b"\n").replace(b"\n", ends)
    parts = read_message(message)
    assert verify_message(parts, world.grid.rules, world.grid.now).subject == ANN_DN
    assert read_list(parts.text) == read_list(write_list(world.list()))


def _flip(message: bytes) -> bytes:
    return message.replace(b'"hv:version": "2.0"', b'"hv:version": "9.0"')


BAD_MESSAGES: dict[str, tuple[Callable[[World], bytes], str]] = {
    "the list alone, unsigned": (lambda world: write_list(world.list()), "not S/MIME"),
    "a list that was changed after it was signed": (
        lambda world: _flip(world.sign(world.list())),
        "OpenSSL refuses it",
    ),
    "signed by somebody else than the list says": (
        lambda world: world.sign(world.list(), world.bob),
        r"Bob .* signed it",
    ),
    "signed by a namesake of another CA": (lambda world: world.sign(world.list(), world.namesake), "DC=other"),
    "by another, who says so": (
        lambda world: world.sign(world.list(dn="/DC=org/DC=grid/CN=Bob"), world.bob),
        "not the trusted endorser",
    ),
    "by a revoked certificate": (
        lambda world: world.sign(world.list(dn="/DC=org/DC=grid/CN=Gone"), world.revoked),
        "revoked",
    ),
    "two signatures' worth of parts": (
        lambda world: world.sign(world.list()) + world.sign(world.list()),
        "does not have two parts",
    ),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_a_message_that_is_not_believed(world: World, tmp_path: Path, case: str) -> None:
    make, reason = BAD_MESSAGES[case]
    with pytest.raises(Unverified, match=reason):
        world.open(make(world), tmp_path)
    assert list(tmp_path.iterdir()) == []


# The list


def test_a_list_says_the_same_when_it_is_read_again(world: World) -> None:
    found = world.list(world.image(memory=512, cores=2, expires=world.grid.now + DAY), world.image(identifier=TWO))
    again = read_list(write_list(found))
    second = found.images[1].model_copy(update={"expires": found.expires})
    assert again == found.model_copy(update={"images": (found.images[0], second)})


def test_the_members_that_the_three_consumers_demand_are_there(world: World) -> None:
    found = json.loads(write_list(world.list()))["hv:imagelist"]
    assert set(found) >= {
        "dc:date:created", "dc:date:expires", "dc:identifier", "dc:description", "dc:title", "dc:source", "hv:version",
        "hv:uri", "hv:endorser", "hv:images", "ad:vo",
    }  # fmt: skip
    assert set(found["hv:endorser"]["hv:x509"]) == {"hv:ca", "hv:dn", "hv:email", "dc:creator"}
    assert set(found["hv:images"][0]["hv:image"]) >= {
        "dc:title", "dc:description", "hv:size", "sl:checksum:sha512", "sl:arch", "hv:uri", "dc:identifier", "sl:os",
        "sl:osversion", "sl:comments", "hv:hypervisor", "hv:version", "ad:mpuri", "dc:date:expires",
    }  # fmt: skip


def _without(key: str, *, image: bool) -> Callable[[dict[str, object]], object]:
    return lambda document: _inner(document, image=image).pop(key)


def _with(key: str, value: object, *, image: bool) -> Callable[[dict[str, object]], object]:
    return lambda document: _inner(document, image=image).update({key: value})


def _inner(document: dict[str, object], *, image: bool) -> dict[str, object]:
    found = document["hv:imagelist"]
    return found["hv:images"][0]["hv:image"] if image else found  # type: ignore[index,return-value]


BAD_LISTS: dict[str, Callable[[dict[str, object]], object]] = {
    "no identifier": _without("dc:identifier", image=False),
    "no images": _without("hv:images", image=False),
    "no endorser": _without("hv:endorser", image=False),
    "a date with fractions": _with("dc:date:expires", "2026-11-22T12:00:00.5Z", image=False),
    "a date with an offset": _with("dc:date:expires", "2026-11-22T12:00:00+01:00", image=False),
    "an identifier that is a path": _with("dc:identifier", "../../etc/passwd", image=False),
    "an image without digest": _without("sl:checksum:sha512", image=True),
    "an image with a short digest": _with("sl:checksum:sha512", "ab" * 32, image=True),
    "an image without size": _without("hv:size", image=True),
    "an image of size zero": _with("hv:size", 0, image=True),
    "an image of negative size": _with("hv:size", "-5", image=True),
    "an image of size true": _with("hv:size", True, image=True),
    "an image without URL": _with("hv:uri", "", image=True),
    "control characters in a title": _with("dc:title", "\x1b[2J", image=True),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_list_with_a_fault_is_refused_whole(world: World, case: str) -> None:
    document = json.loads(write_list(world.list()))
    BAD_LISTS[case](document)
    with pytest.raises(Malformed):
        read_list(json.dumps(document).encode())


def test_an_image_listed_twice_refuses_the_list(world: World) -> None:
    with pytest.raises(Malformed, match="list each once"):
        read_list(write_list(world.list(world.image(), world.image(version="2"))))


@pytest.mark.parametrize(("low", "high"), [("1.9", "1.10"), ("2", "2.1"), ("1.0-a", "1.0-b"), ("1.2", "1.2.0")])
def test_versions_are_compared_as_people_count(low: str, high: str) -> None:
    assert version_order(low) < version_order(high)


@pytest.mark.parametrize(("said", "mib"), [("512", 512), (536870912, 512), ("1024", 1024)])
def test_memory_is_understood_in_both_units(world: World, said: object, mib: int) -> None:
    document = json.loads(write_list(world.list()))
    _with("hv:ram_minimum", said, image=True)(document)
    assert read_list(json.dumps(document).encode()).images[0].memory == mib


# The subscription


# The file


# All the way
