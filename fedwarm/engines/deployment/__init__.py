"""The deployment engine: a run on a federation of Flower's processes, followed from here to its end."""
