"""Tests of deployer.site.api. Modules without a file of their own here, and where they are tested:

- `parameters`: tests/deployer/site/api/test_app.py.
"""
