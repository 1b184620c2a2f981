"""Tests of deployer.ec2.aws. Modules without a file of their own here, and where they are tested:

- `tags`: tests/deployer/ec2/account/test_cleanup.py and tests/deployer/ec2/pool/test_reconciler.py.
"""
