"""Patterns of images and VOs."""

import pytest

from catalog.image.address import Address
from deployer.policy.patterns import matches_image, matches_vo
from tests.support.factories import manifest
from tests.support.node.policy_texts import parse

IMAGE = manifest([Address(bytes(32), 4096)])


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("star/worker", True),
        ("star/*", True),
        ("*/*", True),
        ("*/work*", True),
        ("star/worker@1.0", True),
        ("star/worker@1.*", True),
        ("star/worker@*", True),
        ("star/worker@1", False),
        ("star/worker@2.*", False),
        ("star/workers", False),
        ("st/worker", False),
        ("atlas/*", False),
        ("*/base", False),
        (IMAGE.image_id, True),
        ("sha256:" + "0" * 64, False),
    ],
)
def test_patterns_of_images(pattern: str, matches: bool) -> None:
    policy = parse(f"[images]\nallow=['{pattern}']")

    assert matches_image(policy.images.allow, IMAGE) == (pattern if matches else None)


@pytest.mark.parametrize(
    ("pattern", "matches"), [("star", True), ("s*", True), ("*", True), ("sta", False), ("star-*", False)]
)
def test_patterns_of_vos(pattern: str, matches: bool) -> None:
    policy = parse(f"[vos]\nallow=['{pattern}']")

    assert matches_vo(policy.vos.allow, "star") == (pattern if matches else None)
