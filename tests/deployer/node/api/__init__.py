"""Tests of deployer.node.api. Modules without a file of their own here, and where they are tested:

- `app`, `machines`, `messages`: tests/deployer/node/machines/test_deployment.py and
  tests/deployer/node/machines/test_operations.py, through the node's socket.
"""
