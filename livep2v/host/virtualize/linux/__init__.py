"""Fixes of the running system: what it mounts, its network names, its services."""
