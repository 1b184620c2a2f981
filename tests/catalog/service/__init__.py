"""Tests of catalog.service. Modules without a file of their own here, and where they are tested:

- `backup`: tests/journeys/operations/test_backup.py.
- `daemon`: every test with a running catalog (tests/support/catalog/service_process.py) starts it.
- `gauges`: tests/journeys/operations/test_metrics.py.
"""
