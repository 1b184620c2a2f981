"""How people name images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import Misused
from catalog.image.address import Address
from catalog.image.reference import Reference
from signer.errors import DocumentError
from tests.support.factories import manifest

ID = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (ID, Reference(image_id=ID)),
        ("star/worker", Reference(vo="star", name="worker")),
        ("star/worker@1.0", Reference(vo="star", name="worker", version="1.0")),
        ("s/w@1", Reference(vo="s", name="w", version="1")),
        ("a.b-c_d/e.f-g_h@1.0~rc1+deb_2", Reference(vo="a.b-c_d", name="e.f-g_h", version="1.0~rc1+deb_2")),
    ],
)
def test_a_reference_is_read_and_written(text: str, reference: Reference) -> None:
    assert Reference.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "star", "star/", "/worker", "star/worker@", "star/worker@1@2", "star//worker", "star/a/b", "Star/worker",
        "star/Worker", "-star/worker", "star/worker-", "star/worker\n", " star/worker", "star/../etc", "../worker",
        "star/worker@1.0/", "star/worker@-1", "s" * 64 + "/worker", "star/" + "w" * 129, "star/worker@" + "1" * 65,
        "sha256:", ID[:-1], ID + "0", ID.upper(), "sha512:" + ID[7:],
    ],
)  # fmt: skip
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(
        Misused, match="is not a valid image reference; give sha256:<64 hex digits>, VO/NAME@VERSION or VO/NAME"
    ):
        Reference.parse(text)


@given(st.from_regex(r"[a-zA-Z0-9._@/+~-]{1,20}", fullmatch=True))
def test_a_reference_names_what_a_manifest_can_be_called(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except Misused:
        return
    assert str(reference) == text
    made = manifest([Address.of(b"k")], vo=reference.vo, name=reference.name, version=reference.version or "1")
    assert made.title.startswith(f"{reference.vo}/{reference.name}@")


@given(st.text("ab-._", min_size=1, max_size=6))
def test_a_manifest_is_called_only_what_a_reference_can_name(name: str) -> None:
    try:
        made = manifest([Address.of(b"k")], name=name)
    except DocumentError:
        with pytest.raises(Misused):
            Reference.parse(f"star/{name}")
        return
    assert Reference.parse(made.title) == Reference(vo="star", name=name, version="1.0")
