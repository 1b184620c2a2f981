"""Tests of catalog.client. Modules without a file of their own here, and where they are tested:

- `credential_file`: tests/catalog/access/test_authorizer.py.
- `failover`: tests/catalog/service/test_mirror.py, between a catalog and its mirrors.
- `seen_names`: tests/catalog/client/test_trusted.py, where a name changes its meaning.
"""
