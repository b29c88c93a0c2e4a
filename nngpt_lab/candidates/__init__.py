"""From an LLM's text to a number that can be trusted: extract, check, compare, run in isolation, score, keep."""
