"""Tests of deployer.web. Modules without a file of their own here, and where they are tested:

- `server_thread`: tests/deployer/site/broker/test_api.py and tests/deployer/site/service/test_server_tls.py.
- `wakeup`: tests/deployer/site/service/test_background.py and tests/deployer/site/api/test_events.py.
"""
