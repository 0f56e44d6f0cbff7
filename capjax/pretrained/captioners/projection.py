"""The dense layer between an encoder and a decoder of transformers, as an adapter of capjax."""

# The fields of `Adapter`, beside its width, that make it this layer. Configs import this file,
# which needs no JAX.
PROJECTION = {"norms": False, "activation": "", "positions": "none", "depth": 0}
