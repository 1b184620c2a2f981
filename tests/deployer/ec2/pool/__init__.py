"""Tests of deployer.ec2.pool. Modules without a file of their own here, and where they are tested:

- `deployment`: tests/deployer/ec2/pool/test_pool.py.
"""
