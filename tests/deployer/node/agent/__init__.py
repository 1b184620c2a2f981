"""Tests of deployer.node.agent. Modules without a file of their own here, and where they are tested:

- `executor`, `observed_state`: tests/deployer/node/agent/test_agent.py, beside a site and
  a node in memory.
- `membership`: tests/journeys/machines/test_site_and_node.py.
- `migration_runner`: tests/journeys/machines/test_migration.py.
"""
