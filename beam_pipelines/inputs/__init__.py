"""Inputs of the corpus job: one module a format, one table (`table.py`) from a file's ending and kind to its reader."""
