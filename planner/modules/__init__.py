"""What the planner and the trainer have to know about live modules."""
