"""Tests of deployer.trials. Modules without a file of their own here, and where they are tested:

- `replay`: tests/deployer/cli/test_policy_trials.py.
"""
