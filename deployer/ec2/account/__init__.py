"""One account: its images, instances, cost records and cleanup."""
