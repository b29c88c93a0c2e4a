"""Language models: load, prompt, sample, tune."""

import warnings

# The libraries below show bars as widgets where they can; that they cannot is no reader's concern in a notebook
warnings.filterwarnings("ignore", message="IProgress not found")
