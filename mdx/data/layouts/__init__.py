"""Layouts: what a row of data is."""
