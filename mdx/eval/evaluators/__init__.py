"""Evaluators: what is measured of a model, during training and after it."""
