"""Tests of deployer.cli. Modules without a file of their own here, and where they are tested:

- `arguments`: every command's test.
- `deploy`: tests/deployer/cli/node/test_commands.py and tests/deployer/cli/site/test_commands.py.
"""
