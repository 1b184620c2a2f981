"""Tests of catalog.api. Modules without a file of their own here, and where they are tested:

- `contents`, `images`: tests/catalog/api/test_app.py.
- `candidates`: tests/catalog/publication/test_candidates.py.
- `clusters`: tests/catalog/publication/test_clusters.py.
- `flat_images`: tests/catalog/content/test_flat_image.py.
- `history`: tests/catalog/publication/test_history.py.
- `revocations`: tests/catalog/publication/test_revocations.py.
- `swarm_grants`: tests/catalog/access/test_authorizer.py and tests/stager/swarm/test_catalog_seeder.py.
- `tuf`: tests/catalog/tuf_repository/test_repository.py.
"""
