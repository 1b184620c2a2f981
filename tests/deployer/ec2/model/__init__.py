"""Tests of deployer.ec2.model. Modules without a file of their own here, and where they are tested:

- `instances`: tests/deployer/ec2/model/test_hibernation.py and tests/deployer/ec2/pool/test_reconciler.py.
"""
