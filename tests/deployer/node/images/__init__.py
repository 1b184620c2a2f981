"""Tests of deployer.node.images. Modules without a file of their own here, and where they are tested:

- `image_writer`: tests/deployer/node/machines/test_operations.py saves machines that really ran.
"""
