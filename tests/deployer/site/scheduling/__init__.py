"""Tests of deployer.site.scheduling. Modules without a file of their own here, and where they are tested:

- `proposal`: tests/deployer/site/operations/test_admission.py.
"""
