"""The decoders, a file each."""
