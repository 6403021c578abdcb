"""The modules that are trained, and how they get into a model."""
