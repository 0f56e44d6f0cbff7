"""A run as a whole: train, evaluate, load, and its workdir."""
