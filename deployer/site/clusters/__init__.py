"""Clusters: documents, planner, controller, dry runs. Orders machines through admission like everybody else."""
