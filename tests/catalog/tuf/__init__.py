"""Tests of catalog.tuf. Modules without a file of their own here, and where they are tested:

- `client`, `metadata`, `targets`: tests/catalog/client/test_trusted.py, against a repository that lies in
  every way.
- `keys`: tests/catalog/tuf_repository/test_repository.py.
"""
