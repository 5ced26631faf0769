"""The embedded pages and the walk along the whole path."""
