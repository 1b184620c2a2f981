"""A cache beside another one: what is there is linked and believed only when it was hashed again."""

import os
from pathlib import Path

import pytest

from catalog.image.address import Address
from stager.cache.cache import Cache
from stager.cache.directory import entry_path, link_contents
from stager.errors import CacheUnusable, NotCached
from tests.support.factories import content

QUOTA = 64 << 20


def cache(root: Path) -> Cache:
    return Cache(root, QUOTA, lambda: 1.0)


def held(root: Path, seed: int) -> Address:
    """A content in a cache that nobody has open."""
    fresh = root / "fresh"
    root.mkdir(exist_ok=True)
    address = content(fresh, 300_000, seed=seed)
    with cache(root) as found, found.reserve({address: 300_000}), found.fill(address) as incoming:
        assert incoming is not None
        os.pwrite(incoming.descriptor, fresh.read_bytes(), 0)
        found.commit(incoming, address)
    fresh.unlink()
    return address


def test_what_is_lent_is_the_same_file_and_stays_when_the_lender_lets_go(tmp_path: Path) -> None:
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    address, absent = held(mine, 1), Address.parse("a" * 64 + "-5")
    with cache(mine) as lender:
        assert link_contents(mine, yours, (address, absent, address)) == 1
        assert link_contents(mine, yours, (address,)) == 0
        with cache(yours) as borrower:
            assert borrower.recovered.adopted == 1
            assert borrower.path(address).samefile(lender.path(address))
            borrower.check(address, full=True)
            lender.check(address)  # nothing about the lender's own entry is another
            lender.evict(str(address))
            borrower.check(address, full=True)
            with pytest.raises(NotCached):
                borrower.path(absent)


def test_what_the_lender_has_under_a_wrong_name_is_not_believed(tmp_path: Path) -> None:
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    address = held(mine, 2)
    found = entry_path(mine, str(address))
    found.chmod(0o600)
    found.write_bytes(bytes(300_000))
    assert link_contents(mine, yours, (address,)) == 1
    with cache(yours) as borrower:
        assert borrower.recovered.adopted == 0
        with pytest.raises(NotCached):
            borrower.path(address)
    assert found.exists()  # the lender's name of it is its own


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnusable, match="cannot be used as a cache"):
        link_contents(tmp_path / "mine", tmp_path / "file", ())
