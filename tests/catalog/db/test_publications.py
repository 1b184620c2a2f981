"""What the catalog's database says of publications: contents of published images alone, and ranges that arrived."""

from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.access.rule_store import scopes_with
from catalog.db import images as registry
from catalog.db import publications as holdings
from catalog.db.engine import CatalogDatabase
from catalog.image.address import Address
from tests.support.factories import manifest

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


ADDRESS = Address(bytes(32), 1 << 30)


IMAGE = "sha256:" + "1" * 64


def test_a_content_is_served_only_for_a_published_image(database: CatalogDatabase) -> None:
    """Verified content of a pending publication is invisible."""
    image = manifest([ADDRESS])
    with database.writing() as connection:
        holdings.put_publication(connection, image, NOW)
        assert holdings.missing_contents(connection, image.image_id) == [ADDRESS]
        holdings.add_content(connection, ADDRESS, 5, NOW)
        assert holdings.missing_contents(connection, image.image_id) == []
        assert not scopes_with(connection, ADDRESS)
        registry.add_image(connection, image, NOW)
        holdings.end_publication(connection, image.image_id)
        assert scopes_with(connection, ADDRESS)
        assert holdings.unreferenced_contents(connection) == []
        holdings.forget_publication(connection, image.image_id)  # a published image keeps its parts
        assert scopes_with(connection, ADDRESS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=14))
def test_received_ranges_are_a_set_of_bytes(database: CatalogDatabase, pieces: list[tuple[int, int]]) -> None:
    """In whatever order and overlap they come, they are kept sorted, apart, and hold exactly what came."""
    came: set[int] = set()
    with database.writing() as connection:
        holdings.drop_ranges(connection, IMAGE, ADDRESS)
        for start, length in pieces:
            holdings.add_range(connection, IMAGE, ADDRESS, start, start + length)
            came |= set(range(start, start + length))
        found = holdings.received_ranges(connection, IMAGE, ADDRESS)
    assert {n for start, end in found for n in range(start, end)} == came
    assert all(before[1] < after[0] for before, after in pairwise(found))
