"""Tests of deployer.site.service. Modules without a file of their own here, and where they are tested:

- `site`: tests/deployer/site/service/test_background.py, and every test with a running site.
"""
