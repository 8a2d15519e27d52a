"""Lexica, clusters and taggers, computed from a corpus before training."""
