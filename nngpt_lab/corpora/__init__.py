"""Published data: pinned wheels by hash, the tables compiled from them, and image data sets as uint8 tensors."""
