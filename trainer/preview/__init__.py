"""`plan data`: what a file is to a model, before anything is trained on it."""
