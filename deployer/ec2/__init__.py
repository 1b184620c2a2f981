"""Machines at EC2 as an extension of a site: accounts are nodes whose hypervisor is rented."""
