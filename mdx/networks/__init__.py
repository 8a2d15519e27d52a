"""Networks: one transformer, attention values, positions, heads and presets.

Flax Linen is used inside this package only.
"""
