"""A captioner as an artefact: one exported function, written and run."""
