"""Apple's ``container`` as an engine: version 1.0.0 and later, on macOS 26 and Apple silicon."""
