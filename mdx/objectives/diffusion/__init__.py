"""Objectives of masked diffusion."""
