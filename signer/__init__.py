"""Signatures and trust: strict documents, statements and their OpenPGP and CMS signatures, and the audit log.

Knows bytes and keys; knows neither images nor nodes nor machines.
"""
