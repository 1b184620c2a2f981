"""Tests of deployer.site.operations. Modules without a file of their own here, and where they are tested:

- `machine_changes`: tests/deployer/site/api/test_machines.py and tests/deployer/ec2/site/test_spending.py.
- `revocations`: tests/deployer/site/operations/test_admission.py and tests/deployer/site/clusters/test_published.py.
"""
