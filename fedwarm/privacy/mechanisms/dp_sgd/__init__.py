"""DP-SGD: gradients clipped example by example, with Gaussian noise (Abadi et al., arXiv 1607.00133)."""
