"""Keeps imported bars on disk, exactly and atomically."""
