"""seqio tasks and mixtures, registered without vocabulary or path (see docs/architecture.md)."""
