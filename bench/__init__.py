"""Measurements for docs/measurements.md: ``make bench``. Each module is one, ``measure()`` its result as a table."""
