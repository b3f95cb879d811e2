"""Ways to fine-tune a foundation's adapter."""
