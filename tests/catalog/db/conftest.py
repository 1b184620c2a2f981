"""A catalog's database."""

from pathlib import Path

import pytest

from catalog.db.engine import CatalogDatabase


@pytest.fixture
def database(tmp_path: Path) -> CatalogDatabase:
    """An empty database of the newest shape."""
    return CatalogDatabase(tmp_path / "catalog.db")
