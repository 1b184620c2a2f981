"""Tests of deployer.node.migration. Modules without a file of their own here, and where they are tested:

- `client`: tests/deployer/node/migration/test_server.py, over real TLS.
- `source`, `target`: tests/journeys/machines/test_migration.py and tests/journeys/machines/test_migration_kills.py,
  between real nodes.
"""
