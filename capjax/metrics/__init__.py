"""Caption metrics: PTB tokens and the COCO scores."""
