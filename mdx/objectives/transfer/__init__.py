"""Objectives that move knowledge into a trained model, or out of it."""
