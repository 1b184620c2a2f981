"""Guests through libvirt and QEMU: disks, descriptors, domain XML, accelerators.

Does not know policies or who asked.
"""
