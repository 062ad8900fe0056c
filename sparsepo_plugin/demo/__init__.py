"""Offline demo: a toy language with known preference tokens and tiny models that learn it."""
