"""Tests of catalog.image. Modules without a file of their own here, and where they are tested:

- `blanks`: tests/stager/content/test_blanks.py makes blanks, tests/catalog/content/test_flat_image.py reads them.
- `ranges`: tests/stager/content/test_piece_map.py and tests/catalog/client/test_trusted.py.
"""
