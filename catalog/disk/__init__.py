"""Foreign disks: partition tables, formats, blank detection, and the confined child that reads them.

Does not know what an image is made of.
"""
