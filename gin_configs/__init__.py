"""Package data: gin files, found by relative name from any folder."""
