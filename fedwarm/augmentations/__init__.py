"""What clients add to their data before training."""
