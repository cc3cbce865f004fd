"""Mutants: backends weakened on purpose, at least one for each check that must catch it.

Each is a wrapper over the netns engine or backend: routes, rules and forwarding over rtnetlink, no
switch inside the engine. Where the catalogue's own mutant cannot exist here, one that does the same
harm stands in, and says so. One file for each area of the catalogue.
"""
