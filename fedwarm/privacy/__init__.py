"""What was released (events), what it costs (curves, accountant, views), and the mechanisms: clip, noise, private randomness."""
