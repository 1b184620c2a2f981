"""Tests of deployer.site.clusters. Modules without a file of their own here, and where they are tested:

- `members`: tests/deployer/site/clusters/test_planner.py and tests/deployer/site/clusters/test_controller.py.
"""
