"""Tests of catalog.tuf_repository. Modules without a file of their own here, and where they are tested:

- `key_ceremony`, `online_signing`, `status`, `store`: tests/catalog/tuf_repository/test_repository.py: what one
  publishes another signs, stores and warns of.
"""
