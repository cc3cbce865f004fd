"""What is made is written down first, and undone however the run ends."""
