"""What must be true of a cache at every moment that somebody can look, however it came there."""

from pathlib import Path

from catalog.content.indexing import verify_content
from catalog.image.address import Address
from stager.cache.cache import Cache
from stager.cache.directory import entry_path


def check_invariants(cache: Cache) -> None:
    """Every entry re-hashes; rows and files are the same; nothing lies about; the quota holds."""
    entries = cache.entries()
    for entry in entries:
        path = entry_path(cache.root, entry.key)
        assert path.stat().st_mode & 0o777 == 0o444, path
        if not entry.digest:
            verify_content(path, Address.parse(entry.key))
        cache.check(entry.key, full=True)
    on_disk = set(_files(cache.root / "partitions") + _files(cache.root / "blanks"))
    assert on_disk == {entry_path(cache.root, entry.key) for entry in entries}
    trash = {one.name: one.entry for one in cache.trash()}
    assert {path.name for path in _files(cache.root / "trash")} == set(trash)
    assert not set(trash) & {entry.key for entry in entries}
    with cache._index.transaction():
        reserved = set(cache._index.reserved())
    assert {path.name for path in _files(cache.root / "incoming")} <= reserved
    usage = cache.usage()
    assert usage.trash == sum(entry.allocated for entry in trash.values())
    assert usage.allocated + usage.reserved + usage.trash <= usage.quota
    assert {path.name for path in cache.root.iterdir()} <= {
        "partitions", "blanks", "incoming", "trash", "beside", "lock", "ledger.db", "ledger.db-wal", "ledger.db-shm",
    }  # fmt: skip


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if not path.is_dir()]
