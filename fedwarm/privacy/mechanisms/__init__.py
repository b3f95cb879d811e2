"""Mechanisms that make a client's training steps private, as parts with two halves (`fedwarm.parts`, `training.private`)."""
