"""Snapshots: each provider is ``copy(spec, mounts, receiver, progress, cancelled) -> Instant``, the one door.

``tracked``   a running machine: passes over what is written, the instant last (docs/snapshot.md)
``offline``   an image, or a device that nobody has mounted: one pass
"""
