"""What the deployer's HTTP services share: problem documents, server threads, socket paths, wake-ups.

Does not know what is served.
"""
