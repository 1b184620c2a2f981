"""Tests of deployer.web. Modules without a file of their own here, and where they are tested:

- `local_server`: tests/deployer/site/api/test_app.py and tests/deployer/node/test_node.py, by their services.
- `server_thread`: tests/deployer/site/broker/test_api.py and tests/deployer/site/service/test_server_tls.py.
- `wakeup`: tests/deployer/site/service/test_background.py and tests/deployer/site/api/test_events.py.
"""
