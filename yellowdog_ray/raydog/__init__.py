"""Old import paths; see `raydog`."""
