"""Tests of catalog.access. Modules without a file of their own here, and where they are tested:

- `rule_store`: tests/catalog/access/test_authorizer.py, over a running catalog.
"""
