"""What the teaching notebooks call."""
