"""Publishing: images, clusters, candidates and revocations become visible in one transaction and in the signed metadata.
Does not know HTTP.
"""
