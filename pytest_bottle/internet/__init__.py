"""The far side of a bottle: the hermetic lab and its witness."""
