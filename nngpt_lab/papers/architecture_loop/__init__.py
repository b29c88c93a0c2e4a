"""Paper B, arXiv 2601.02997: a language model writes networks, and is tuned on the good and new ones."""
