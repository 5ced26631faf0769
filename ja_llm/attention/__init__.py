"""Attention over packed documents: one function, several implementations."""

from ja_llm.attention.api import attention

__all__ = ["attention"]
