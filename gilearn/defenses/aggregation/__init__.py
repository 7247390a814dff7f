"""Protocols that aggregate what clients share so that no server sees any of it (survey, section 3.3)."""
