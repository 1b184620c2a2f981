"""Tests of deployer.site. Modules without a file of their own here, and where they are tested:

- `daemon`: every test with a running site (tests/support/site/service_process.py) starts it.
- `gauges`: tests/journeys/operations/test_metrics.py.
"""
