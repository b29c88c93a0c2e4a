"""What a run was, where it lands, and how large it is."""
