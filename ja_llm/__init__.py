"""ja_llm: cross-lingual continual pre-training in JAX.

Importing this package loads nothing heavy; each room is imported by its own name.
"""

__version__ = "0.1.0"
