"""Attention over packed documents: one function, several implementations."""

from ja_llm.attention.api import attention
from ja_llm.attention.flash import interpreted
from ja_llm.attention.registry import for_pairs

__all__ = ["attention", "for_pairs", "interpreted"]
