"""The main job, for real, on this machine: ``make demo``."""
