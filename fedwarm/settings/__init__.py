"""Typed settings of a run, and the kinds of components that settings choose from."""
