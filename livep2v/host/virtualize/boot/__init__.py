"""Fixes without which the VM does not start, or starts only until its next kernel update."""
