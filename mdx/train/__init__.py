"""Training: state, optimizer, step and loop."""
