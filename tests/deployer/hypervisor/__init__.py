"""Tests of deployer.hypervisor. Modules without a file of their own here, and where they are tested:

- `qemu_monitor`: tests/deployer/hypervisor/test_libvirt.py, on machines that run.
"""
