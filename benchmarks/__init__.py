"""Figures of the project: medians of one run, on the machine at hand. Never part of the tests."""
