"""Tests of stager.cache. Modules without a file of their own here, and where they are tested:

- `commit`, `disk`, `entries`, `index`, `partial_file`, `quota`, `sidecars`: the parts
  of one write protocol: tests/stager/cache/test_cache.py and tests/stager/cache/test_full_disk.py have what each
  promises, tests/journeys/images/test_staging_faults.py fails and kills at each of its steps,
  tests/journeys/images/test_cache_model.py tries any order of them.
- `sidecars`: tests/stager/fetch/test_local_reuse.py.
"""
