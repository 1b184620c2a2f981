"""What the catalog's database says of VOs, keys, names and instants."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from catalog.db import images as registry
from catalog.db.engine import CatalogDatabase
from catalog.errors import Conflict
from catalog.image.address import Address
from signer.verification.trust import Anchor
from tests.support.factories import manifest

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


FINGERPRINT = "A" * 40


def test_a_key_has_one_role_per_vo_and_can_be_removed(database: CatalogDatabase) -> None:
    """Registering again changes role and key; another VO's is another registration."""
    with database.writing() as connection:
        for vo in ("star", "atlas", "star"):
            registry.register_vo(connection, vo, NOW)
        registry.register_key(connection, Anchor("star", "reviewer", FINGERPRINT, b"old"), NOW)
        registry.register_key(connection, Anchor("star", "image-administrator", FINGERPRINT, b"new"), NOW)
        registry.register_key(connection, Anchor("atlas", "reviewer", FINGERPRINT, b"new"), NOW)
        (anchor,) = registry.list_anchors(connection, "star")
        assert (anchor.role, anchor.key) == ("image-administrator", b"new")
        assert [(vo.name, vo.keys) for vo in registry.list_vos(connection, "", 10)] == [("atlas", 1), ("star", 1)]
        assert registry.remove_key(connection, "star", FINGERPRINT)
        assert registry.list_anchors(connection, "star") == []
        assert len(registry.list_anchors(connection, "atlas")) == 1
    with pytest.raises(Conflict), database.writing() as connection:
        registry.register_key(connection, Anchor("cms", "reviewer", FINGERPRINT, b"new"), NOW)


def test_instants_come_back_as_they_went_in(database: CatalogDatabase) -> None:
    """Whatever zone they were given in."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-5)))
    with database.writing() as connection:
        registry.register_vo(connection, "star", elsewhere)
        assert registry.list_vos(connection, "", 1)[0].registered == NOW


def test_one_name_and_version_cannot_be_there_twice(database: CatalogDatabase) -> None:
    """The database itself refuses it, whatever the use case forgot."""
    with database.writing() as connection:
        registry.add_image(connection, manifest([Address.of(b"a")]), NOW)
    with pytest.raises(Conflict), database.writing() as connection:
        registry.add_image(connection, manifest([Address.of(b"b")]), NOW)
