"""Codecs of updates: relative entropy coding with shared randomness, its streams, blocks, rotation, packing and replay."""
