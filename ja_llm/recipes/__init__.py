"""Published pre-training runs as gin files (gin_configs/recipes/): what they resolve to, and what they would take."""
