"""Makes image directories: imports disks, builds from recipes, checks the result. Does not publish them."""
