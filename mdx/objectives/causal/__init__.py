"""Objectives of left-to-right prediction."""
