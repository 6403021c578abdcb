"""Scores on held-out data."""
