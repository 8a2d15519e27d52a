"""Objectives for labelled records."""
