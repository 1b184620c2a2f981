"""Tests of catalog.swarm. Modules without a file of their own here, and where they are tested:

- `certificate_authority`: tests/catalog/swarm/test_torrent.py and tests/stager/swarm/test_grants.py, with real TLS.
"""
