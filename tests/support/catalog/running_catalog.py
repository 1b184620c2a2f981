"""Fixtures of the catalog's tests: a real service process, and VOs whose keys are made once per session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from signer.openpgp.keyring import Keyring
from tests.support.catalog.published_images import published  # noqa: F401 - fixture
from tests.support.catalog.service_process import Service, Vo


@pytest.fixture(scope="session")
def vos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Vo]:
    """Two VOs, and a stranger whose key nobody registers."""
    keyring = Keyring(tmp_path_factory.mktemp("keys") / "home")
    return {
        name: Vo(keyring, name, keyring.generate(f"{name} <{name}@example.org>"))
        for name in ("star", "atlas", "stranger")
    }


@pytest.fixture(scope="session")
def star(vos: dict[str, Vo]) -> Vo:
    """The VO that most tests publish for."""
    return vos["star"]


@pytest.fixture
def service(tmp_path: Path, vos: dict[str, Vo]) -> Iterator[Service]:
    """A running catalog, empty, with the VOs star and atlas registered."""
    with Service(tmp_path) as running:
        running.register(vos["star"].anchor(), vos["atlas"].anchor())
        yield running
