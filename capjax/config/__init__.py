"""From a config to parts, and checks between fields."""
