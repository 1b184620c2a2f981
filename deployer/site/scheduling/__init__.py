"""Where machines go and how long they take to boot: capacity, placement, estimates. Pure decisions."""
