"""Measurements for docs/measurements.md: ``make bench``."""
