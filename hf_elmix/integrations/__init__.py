"""The mixed loss in the Trainers of other libraries, and for language models with a large vocabulary."""
