"""Scoring, generation, evaluation tasks and their metrics, the character n-gram control, the report."""
