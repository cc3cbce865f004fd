"""Backends: what can bring a bottle up."""
