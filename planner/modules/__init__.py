"""Facts about live modules that the planner and the trainer need."""
