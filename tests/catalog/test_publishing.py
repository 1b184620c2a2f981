"""Publishing through a real service: what arrives is verified, becomes visible at once, and can be gone on with."""

from pathlib import Path

from catalog.reference import Reference
from catalog.store import check
from tests.catalog.service import Service, Vo, files
from tests.factories import bundle


def test_an_endorsed_image_is_published_and_fetched_again(service: Service, star: Vo, tmp_path: Path) -> None:
    """Everything that was published comes back: manifest, endorsements, every byte."""
    made = star.endorse(bundle(tmp_path / "image"))
    with service.client() as client:
        result = client.publish(made)
        fetched = client.fetch(Reference.parse("star/worker@1.0"), tmp_path / "fetched")
        assert result.sent + result.present == sum(address.size for address in made.manifest.blobs())
    assert fetched.manifest == made.manifest
    assert fetched.endorsements() == made.endorsements()
    for address in made.manifest.blobs():
        assert fetched.blob(address).read_bytes() == made.blob(address).read_bytes()
        assert fetched.blob(address).stat().st_blocks <= made.blob(address).stat().st_blocks
    report = check(service.directory)
    assert (len(report.checked), report.lost, report.quarantined) == (3, [], [])
    assert [name for name in files(service.directory) if not name.startswith("blobs/")] == []
