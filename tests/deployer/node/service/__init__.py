"""Tests of deployer.node.service. Modules without a file of their own here, and where they are tested:

- `gauges`: tests/journeys/operations/test_metrics.py.
"""
