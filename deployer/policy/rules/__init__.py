"""The rules of a policy: each is one object that judges a case and says what would help. `registry` has all of them in order.

Values in, results out: no IO, no clock, and nothing of how endorsements are verified.
"""
