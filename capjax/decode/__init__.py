"""Caption decoding: beam search and sampling over the decoder contract."""
