"""Tests of deployer.hypervisor. Modules without a file of their own here, and where they are tested:

- `embedded_driver`, `qemu_monitor`: tests/deployer/hypervisor/test_libvirt.py, on machines that run.
"""
