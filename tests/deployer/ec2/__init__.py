"""Tests of deployer.ec2. Modules without a file of their own here, and where they are tested:

- `errors`: tests/deployer/ec2/aws/test_client.py.
- `settings`: tests/journeys/ec2/test_site_at_ec2.py.
"""
