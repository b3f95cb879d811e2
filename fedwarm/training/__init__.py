"""The one training loop with its hooks, its plan, and what is measured of a trained classifier."""
