"""Real, freely licensed input: Debian documentation packages as WARC files and aligned pairs."""
