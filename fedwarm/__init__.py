"""Federated learning on top of Flower that starts warm, speaks little and fits small devices."""

__version__ = "0.1.0"
