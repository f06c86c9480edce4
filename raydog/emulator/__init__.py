"""A YellowDog on this machine: the platform's REST API, its scheduling rules, and nodes to run on."""
