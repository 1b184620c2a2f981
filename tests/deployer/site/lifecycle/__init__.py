"""Tests of deployer.site.lifecycle. Modules without a file of their own here, and where they are tested:

- `save_request`: tests/deployer/site/lifecycle/test_save_rules.py.
"""
