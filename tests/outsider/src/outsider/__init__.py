"""Components for fedwarm, each in a file of its own, found by the entry points of this package."""
