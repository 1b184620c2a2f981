"""A catalog's database."""

from pathlib import Path

import pytest

from catalog.db.engine import Database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty database of the newest shape."""
    return Database(tmp_path / "catalog.db")
