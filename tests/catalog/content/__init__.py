"""Tests of catalog.content. Modules without a file of their own here, and where they are tested:

- `upload_store`: tests/catalog/publication/test_images.py and tests/journeys/images/test_publishing_kills.py.
"""
