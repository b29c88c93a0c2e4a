"""What every floor stands on: paths, errors, hashes, names and numbers."""
