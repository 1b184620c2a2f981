"""Tests of deployer.ec2. Modules without a file of their own here, and where they are tested:

- `errors`: tests/deployer/ec2/aws/test_client.py.
"""
