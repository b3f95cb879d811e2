"""The two sides of a round: the loop of every strategy, and what every client does."""
