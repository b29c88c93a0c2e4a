"""nngpt-lab: re-run, question and teach the NNGPT papers.

Importing this package is cheap on purpose: it imports neither torch nor transformers (a test holds it), so that
``nngpt-lab --help`` answers at once.
"""

__version__ = "0.2.0"


def claims(results=None):
    """Every registered claim with the verdicts of a results folder, as a pandas DataFrame (``registry.py``)."""
    from nngpt_lab import registry

    return registry.claims(results)
