"""Tests of deployer.site.lifecycle."""
