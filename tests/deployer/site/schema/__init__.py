"""Tests of deployer.site.schema. Modules without a file of their own here, and where they are tested:

- `clusters`: tests/deployer/site/api/test_clusters.py.
"""
