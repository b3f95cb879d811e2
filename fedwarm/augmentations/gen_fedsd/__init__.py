"""Synthetic images for what a client lacks: sentences, where images come from, the shelf that keeps them, plan and filling."""
