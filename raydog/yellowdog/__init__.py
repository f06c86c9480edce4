"""Everything that RayDog asks of the YellowDog Platform. Knows nothing of Ray."""
