"""Tests of catalog.publication. Modules without a file of their own here, and where they are tested:

- `state_directory`: tests/catalog/content/test_content_store.py recovers it from every state,
  tests/catalog/publication/test_images.py has its owners.
"""
