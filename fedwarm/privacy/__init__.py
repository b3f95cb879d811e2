"""What was released (events), what it costs (curves, accountant, views), and the mechanisms: clip, noise, private randomness."""

SPENT = "its noise was set so that all planned rounds together spend it"
