"""The loop, its step, optimizers, learning rates, checkpoints, metrics, ledger."""
