"""Where corpora, candidates and language models meet: one file per story, readable top to bottom."""
