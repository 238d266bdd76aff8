"""The mixed loss in the Hugging Face Trainer."""
