"""Tests of deployer.machine. Modules without a file of their own here, and where they are tested:

- `state`: tests/deployer/machine/test_spec.py.
"""
