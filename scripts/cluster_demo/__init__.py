"""A sweep on a cluster in which everything goes wrong once: see `__main__`."""
