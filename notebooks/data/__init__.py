"""What the notebooks read."""
