"""HTML pages that are one file and load nothing: their frame, tables and plots, for reports and data cards. Standard library only."""
