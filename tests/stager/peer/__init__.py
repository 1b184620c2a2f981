"""Tests of stager.peer. Modules without a file of their own here, and where they are tested:

- `process`, `protocol`, `torrent`: tests/stager/peer/test_supervisor.py runs the real process.
"""
