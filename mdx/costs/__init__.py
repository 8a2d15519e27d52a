"""Costs of a compiled program: its text, its FLOPs, and the chips it is for."""
