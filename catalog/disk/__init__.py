"""Foreign disks: partition tables, formats, blank detection, and the confined child that reads them.

Does not know how images are built or stored.
"""
