"""Image folders and lists: found, split, checked, decoded, cached."""
