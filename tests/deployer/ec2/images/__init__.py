"""Tests of deployer.ec2.images. Modules without a file of their own here, and where they are tested:

- `driver_check_child`: the child process of tests/deployer/ec2/images/test_driver_check.py.
- `image_upload`, `upload_cache`: tests/deployer/ec2/account/test_ami_registrar.py and
  tests/deployer/ec2/pool/test_pool.py.
"""
