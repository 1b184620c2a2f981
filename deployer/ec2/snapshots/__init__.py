"""Contents as EBS snapshots: reading, block differences, uploading, and the journal that makes uploads resumable.

Does not know machines.
"""
