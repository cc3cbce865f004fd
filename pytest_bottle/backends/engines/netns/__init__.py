"""The embedded engine: Linux namespaces, no daemon, no image, no root needed."""
