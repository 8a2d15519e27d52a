"""Corruption: schedules alpha(t), draws of time, selection and replacement."""
