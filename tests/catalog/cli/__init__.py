"""Tests of catalog.cli. Modules without a file of their own here, and where they are tested:

- `catalog`, `image`, `options`, `publish`, `vo`: tests/catalog/cli/test_catalog_and_image.py: each command follows from the one before.
- `access`: tests/catalog/access/test_authorizer.py.
- `backup`: tests/journeys/operations/test_backup.py.
- `hepix`: tests/catalog/hepix/test_exporter.py.
- `revoke`: tests/catalog/publication/test_revocations.py and tests/catalog/cli/test_certificates.py.
- `torrent`: tests/stager/swarm/test_catalog_seeder.py.
"""
