"""Tests of deployer.cli.node. Modules without a file of their own here, and where they are tested:

- `machine`, `node`: tests/deployer/cli/node/test_commands.py: each command follows from the one before.
- `exposure`: tests/deployer/node/machines/test_revocation_watcher.py.
- `join`: tests/deployer/cli/site/test_commands.py, where a node joins a site.
"""
