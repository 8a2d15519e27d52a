"""From a config to the checked parts of a run."""
