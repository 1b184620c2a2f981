"""Makes bundles: imports disks, builds from recipes, and lints the result. Does not publish them."""
