"""Tests of deployer.node. Modules without a file of their own here, and where they are tested:

- `background`: tests/deployer/node/test_freshness.py and tests/journeys/machines/test_fencing.py.
- `gauges`: tests/journeys/operations/test_metrics.py.
- `client`, `daemon`, `settings`: every test with a running node (tests/support/node/service_process.py),
  tests/deployer/node/test_node.py first of all.
"""
