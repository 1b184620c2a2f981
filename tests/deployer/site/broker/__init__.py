"""Tests of deployer.site.broker. Modules without a file of their own here, and where they are tested:

- `schema`, `server`: tests/deployer/site/broker/test_api.py and tests/deployer/site/broker/test_rules.py, over HTTP.
"""
