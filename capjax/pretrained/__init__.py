"""Other people's weights: read as arrays, never executed."""
