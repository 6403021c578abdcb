"""Comparisons of plans with paired seeds."""
