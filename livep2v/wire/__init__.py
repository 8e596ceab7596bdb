"""The conversation between source and host, over any byte stream. See docs/wire.md."""
