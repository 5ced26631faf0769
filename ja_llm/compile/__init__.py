"""Ahead-of-time compilation of a training run for TPU slices that are not here: whether it fits, and what it will cost."""
