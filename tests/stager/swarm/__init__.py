"""Tests of stager.swarm. Modules without a file of their own here, and where they are tested:

- `announcer`, `torrent_state`: tests/stager/swarm/test_swarm.py and tests/journeys/images/test_swarms.py.
- `fetch`: tests/stager/swarm/test_sharing.py and tests/stager/swarm/test_catalog_seeder.py.
"""
