"""Runs, evaluations and studies for people, and one dispatcher over all documents."""
