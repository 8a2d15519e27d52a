"""Reports: plots of a run."""
