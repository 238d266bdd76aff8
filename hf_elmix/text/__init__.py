"""Text classification: rows, models, labels, and batches without padding."""
