"""Reinforcement learning: rollouts, and the run that trains on them."""
