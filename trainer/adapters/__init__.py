"""Trained adapters on disk: saving, loading, merging, PEFT's formats."""
