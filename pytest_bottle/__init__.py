"""Prove that a sandbox for AI agents really holds."""
