"""Hollowed Net: LoRA fine-tuning with the core of the U-Net taken out."""
