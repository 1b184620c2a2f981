"""Tests of stager.cli. Modules without a file of their own here, and where they are tested:

- `seed`: tests/stager/swarm/test_catalog_seeder.py.
"""
