"""Clusters: documents, planner, controller, dry runs. Orders machines through admission as every requester does."""
