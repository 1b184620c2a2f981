"""Tests of deployer.pki. Modules without a file of their own here, and where they are tested:

- `tls_peer`: tests/deployer/site/service/test_server_tls.py.
"""
