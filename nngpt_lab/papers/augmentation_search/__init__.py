"""Paper A, arXiv 2601.03808: a language model writes augmentation functions, and is tuned on better/worse pairs."""
