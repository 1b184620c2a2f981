"""Tests of stager.fetch. Modules without a file of their own here, and where they are tested:

- `http`, `sources`: tests/stager/test_staging.py, from sources that cut, lie and stall.
- `rate_limit`: tests/stager/test_scrubber.py.
"""
