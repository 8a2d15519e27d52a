"""Objectives of signals: speech and images."""
