"""Machines: policies, disks, guests, nodes, the site and EC2. The top of the house."""
