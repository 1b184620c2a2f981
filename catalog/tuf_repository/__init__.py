"""The TUF repository that a catalog signs: key ceremony, online signing, status.

Does not know what clients make of it.
"""
