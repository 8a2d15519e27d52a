"""What a compiled program costs: its text, its FLOPs, and the chips it is for."""
