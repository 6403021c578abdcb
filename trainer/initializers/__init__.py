"""How experts start."""
