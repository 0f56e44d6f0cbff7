"""Datasets, tokenizer, images, feature cache and batches."""
