"""Quantizers and what is done with them: uniform, learned and relaxed grids, ranges, surgery, bit-width sweeps, export."""
