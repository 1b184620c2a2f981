"""Tests of deployer.ec2.account. Modules without a file of their own here, and where they are tested:

- `instance_operations`, `open_account`: tests/deployer/ec2/pool/test_pool.py and
  tests/journeys/ec2/test_crashes.py, on a whole account.
"""
