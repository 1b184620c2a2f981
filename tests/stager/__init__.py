"""Tests of stager. Modules without a file of their own here, and where they are tested:

- `content_fetch`: tests/stager/test_staging.py and tests/stager/swarm/test_sharing.py.
- `errors`: tests/stager/cache/test_full_disk.py and tests/stager/cache/test_directory.py.
- `settings`: tests/stager/test_factory.py and tests/stager/cli/test_cache.py.
"""
