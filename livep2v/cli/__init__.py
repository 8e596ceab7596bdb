"""The command line, a client of the library: one file per verb."""

from .app import main

__all__ = ["main"]
