"""Models and results on the Hugging Face Hub: cards, and publishing."""
