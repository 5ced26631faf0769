"""The decoder, its configuration, decoding with a cache, and names in other formats."""
