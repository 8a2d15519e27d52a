"""Evaluation: likelihood bounds and n-gram baselines."""
