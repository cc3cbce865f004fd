"""Engines: container-shaped, the raw material of a bottle."""
