"""Tests of deployer.node.membership. Modules without a file of their own here, and where they are tested:

- `credentials`: tests/deployer/node/membership/test_site_client.py.
"""
