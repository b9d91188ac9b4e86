"""Image folders and lists: finding, splitting, checking, decoding and caching images."""
