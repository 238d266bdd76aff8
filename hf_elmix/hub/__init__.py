"""Models and study results on the Hugging Face Hub: finding models, writing cards, publishing."""
