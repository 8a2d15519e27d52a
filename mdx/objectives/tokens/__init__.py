"""Objectives over the tokens of a text: masked, replaced and structural prediction."""
