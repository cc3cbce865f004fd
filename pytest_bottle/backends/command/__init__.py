"""A backend in any language: a file of YAML that maps what a backend does to command lines."""
