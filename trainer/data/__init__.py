"""From dataset files to batches of tokens."""
