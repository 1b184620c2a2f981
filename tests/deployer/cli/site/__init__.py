"""Tests of deployer.cli.site. Modules without a file of their own here, and where they are tested:

- `deployment`, `machine`, `site`: tests/deployer/cli/site/test_commands.py: each command follows from the one
  before.
- `maintenance`: tests/journeys/operations/test_backup.py and tests/deployer/site/operations/test_retention.py.
- `options`: every command's test.
- `cluster`: tests/deployer/site/api/test_clusters.py.
- `published_clusters`: tests/deployer/site/clusters/test_published.py.
"""
