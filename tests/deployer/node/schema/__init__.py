"""Tests of deployer.node.schema."""
