"""OpenPGP through GnuPG: keys, keyrings, packets, status lines.

Does not know which keys a site trusts or what a signature is about.
"""
