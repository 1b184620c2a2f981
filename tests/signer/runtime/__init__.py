"""Tests of signer.runtime. Modules without a file of their own here, and where they are tested:

- `closing`: tests/catalog/client/test_client.py.
- `reloaded_files`: tests/deployer/policy/test_policy_files.py.
"""
