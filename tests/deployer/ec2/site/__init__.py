"""Tests of deployer.ec2.site. Modules without a file of their own here, and where they are tested:

- `agents`: tests/journeys/ec2/test_site_at_ec2.py and tests/deployer/ec2/site/test_extension.py.
"""
