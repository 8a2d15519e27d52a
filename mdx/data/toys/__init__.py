"""Toy languages and packaged texts: data that needs no download."""
