"""Small pure helpers: `tree` (path strings, counting) and `rng` (streams)."""
