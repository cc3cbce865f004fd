"""What runs inside a guest: standard library and h11 only, Python 3.8 or newer."""
