"""Every figure that RayDog states, measured: ``make bench``."""
