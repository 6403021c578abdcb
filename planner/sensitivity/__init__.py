"""Sampled gradients: the probe, what it records, and its report."""
