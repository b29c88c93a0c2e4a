"""Runs one hostile task in a process of its own."""
