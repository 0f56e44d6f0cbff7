"""A captioner as an artefact, one exported function or ONNX: written and run."""
