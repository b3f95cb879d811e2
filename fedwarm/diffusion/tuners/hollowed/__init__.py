"""Hollowed Net: fine-tuning with the foundation's core out of memory (Cho et al., arXiv 2411.01179, NeurIPS 2024)."""

from fedwarm.diffusion.tuners.hollowed.tuner import HollowedTuner

COMPONENT = HollowedTuner
