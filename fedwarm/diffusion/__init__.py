"""Diffusion parts: the foundation, LoRA adapters, fine-tuning, sampling and prompts."""
