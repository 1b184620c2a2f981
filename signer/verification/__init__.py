"""Makes and verifies endorsements and revocations, and says which anchors vouch for one.

Does not know policies or where statements come from.
"""
