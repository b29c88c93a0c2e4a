"""Paper D, arXiv 2605.04903: does a diff beat a whole network? Formats of edits, and how strictly they are applied."""
