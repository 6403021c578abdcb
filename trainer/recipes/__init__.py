"""Recipes: whole runs as data."""
