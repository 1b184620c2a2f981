"""Tests of deployer.site.model. Modules without a file of their own here, and where they are tested:

- `contact`: tests/deployer/site/db/test_contexts.py.
- `principal`: tests/deployer/site/auth/test_grants.py; `quota`: tests/deployer/site/auth/test_grant_quotas.py.
- `records`: tests/deployer/site/store/test_queries.py stores and reads them.
"""
