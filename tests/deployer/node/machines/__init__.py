"""Tests of deployer.node.machines. Modules without a file of their own here, and where they are tested:

- `construction`: tests/deployer/node/machines/test_deployment.py and tests/deployer/node/agent/test_agent.py.
- `restart_admission`: tests/deployer/node/machines/test_operations.py and
  tests/deployer/node/machines/test_revocation_watcher.py.
"""
