"""Tests of deployer.site.client. Modules without a file of their own here, and where they are tested:

- `client`, `endpoint`: every test of tests/deployer/site/api; its connections: tests/deployer/site/service/test_server_tls.py.
- `clusters`: tests/deployer/site/api/test_clusters.py.
- `node_join`: tests/deployer/cli/site/test_commands.py.
"""
