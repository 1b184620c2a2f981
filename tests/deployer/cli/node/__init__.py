"""Tests of deployer.cli.node. Modules without a file of their own here, and where they are tested:

- `machine`, `node`: tests/deployer/cli/node/test_commands.py: each command follows from the one before.
- `options`: every command's test.
"""
