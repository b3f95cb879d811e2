"""The one training loop with its hooks, its optimisers, and what is measured of a trained classifier."""
