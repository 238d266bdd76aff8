"""Classification of reviews: the paper's study of LSTMs, for its data and any other texts with classes."""
