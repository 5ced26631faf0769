"""The verbs of `ja-llm`, a module for each stretch of the path: their arguments, help and example. No logic."""
