"""The probe: modules, sent over standard input, that fire every stimulus of a vantage point.

What is asked for decides what is sent: ``core``, the modules of the asked operations, and what
those import. A guest has no ``pytest_bottle``; there this package is a stand-in without a line.
"""
