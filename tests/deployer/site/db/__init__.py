"""Tests of deployer.site.db. Modules without a file of their own here, and where they are tested:

- `clusters`, `documents`, `events`, `machines`, `nodes`: tests/deployer/site/store/test_queries.py, on both databases; the audit
  of events: tests/deployer/site/db/test_audit.py.
- `prune`: tests/deployer/site/operations/test_retention.py.
"""
