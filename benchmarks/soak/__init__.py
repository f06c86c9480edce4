"""``make soak``: waves of jobs on real instances while everything around them goes wrong, for half an hour."""
