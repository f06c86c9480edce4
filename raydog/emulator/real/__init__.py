"""Real instances."""
