"""Two writers of one bundle: one wins, and nothing is mixed."""

from pathlib import Path

import pytest

from catalog.builder.bundle_writer import draft_bundle
from catalog.builder.disk_import import import_disk
from catalog.errors import Conflict
from tests.support.catalog.disk_images import (
    gpt_disk,
    identity,
    names,
)


def test_two_makers_of_one_target(tmp_path: Path) -> None:
    """One sweeps what the dead left, never what the living make; who is second to finish is refused."""
    disk = gpt_disk(tmp_path / "disk")
    (tmp_path / ".image.deadbeef.draft").mkdir()
    with draft_bundle(tmp_path / "image") as draft:
        assert not (tmp_path / ".image.deadbeef.draft").exists()
        made = import_disk(disk, "raw", identity(), tmp_path / "image")
        assert draft.root.is_dir()
        draft.add_file(disk)
        with pytest.raises(Conflict, match="was created in the meantime"):
            draft.finish(made.bundle.manifest)
    assert names(tmp_path) == ["disk", "image"]
    assert names(tmp_path / "image/blobs")
