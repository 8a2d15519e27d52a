"""Objectives over embeddings of texts: contrastive ones, alone or beside language modelling."""
