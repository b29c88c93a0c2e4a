"""Language models: load, prompt, sample, tune."""
