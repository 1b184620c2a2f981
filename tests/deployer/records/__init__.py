"""Tests of deployer.records. Modules without a file of their own here, and where they are tested:

- `machine_store`: tests/deployer/node/machines/test_supervisor.py.
"""
