"""Mechanisms that make a client's training steps private."""
