"""Tests of deployer.node.schema. Modules without a file of their own here, and where they are tested:

- `orders`: tests/deployer/node/machines/test_deployment.py.
"""
