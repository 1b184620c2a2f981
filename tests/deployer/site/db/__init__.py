"""Tests of deployer.site.db. Modules without a file of their own here, and where they are tested:

- `clusters`, `events`, `machines`, `nodes`: tests/deployer/site/store/test_queries.py, on both databases.
- `prune`: tests/deployer/site/operations/test_retention.py.
"""
