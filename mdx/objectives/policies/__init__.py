"""Policy-gradient losses over rollouts."""
