"""The data floor: sources, tokenizer, images and batches."""
