"""Tests of deployer.protocol. Modules without a file of their own here, and where they are tested:

- `actions`: tests/deployer/node/agent/test_reconciler.py and tests/deployer/ec2/pool/test_reconciler.py.
- `deployment_request`, `joining`: tests/deployer/site/api/test_app.py,
  tests/deployer/site/operations/test_node_joining.py.
- `migration`: tests/deployer/site/lifecycle/test_migration_rules.py.
- `save`: tests/deployer/site/lifecycle/test_save_rules.py.
"""
