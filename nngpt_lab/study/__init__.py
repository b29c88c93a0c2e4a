"""What the papers' loops share."""
