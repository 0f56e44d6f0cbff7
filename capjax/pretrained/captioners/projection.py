"""The dense layer between an encoder and a decoder of transformers, as an adapter of capjax."""

# The fields of `Adapter`, beside its width, of which it is that layer; configs import them.
PROJECTION = {"norms": False, "activation": "", "positions": "none", "depth": 0}
