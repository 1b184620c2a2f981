"""The statements that are signed, endorsement and revocation (in-toto Statement v1), as values.

Does not know how they are signed or who is trusted: catalogs and clients read statements without deciding about trust.
"""
