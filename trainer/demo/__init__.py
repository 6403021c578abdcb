"""Demonstrations: the whole path on real models and on text that every Python has."""
