"""Tokenizers, their training, expansion with its certificate. No framework is imported."""
