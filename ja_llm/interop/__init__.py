"""Checkpoints of other worlds, in and out: Hugging Face."""
