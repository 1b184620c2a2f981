"""Saving a machine as a new image, and offering that image to a catalog as a candidate."""
