"""livep2v turns a running machine into a virtual machine without stopping it."""

__version__ = "0.1.0"
