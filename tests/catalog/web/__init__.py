"""Tests of catalog.web. Modules without a file of their own here, and where they are tested:

- `connection`: tests/catalog/client/test_client.py.
- `metrics`: tests/journeys/operations/test_metrics.py.
- `parameters`: tests/catalog/api/test_app.py and tests/deployer/site/api/test_fuzzing.py.
- `responses`: tests/catalog/api/test_app.py.
- `server`: every test with a service; tests/deployer/site/api/test_events.py has its end.
"""
