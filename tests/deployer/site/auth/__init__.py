"""Tests of deployer.site.auth. Modules without a file of their own here, and where they are tested:

- `authorizer`: tests/deployer/site/api/test_authorization_matrix.py: every role at every route.
"""
