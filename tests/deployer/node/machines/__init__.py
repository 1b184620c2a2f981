"""Tests of deployer.node.machines. Modules without a file of their own here, and where they are tested:

- `restart_admission`: tests/deployer/node/machines/test_operations.py and
  tests/deployer/node/machines/test_revocation_watcher.py.
"""
