"""One node of a federation: what is checked before it starts, its process, whether it is alive."""
