"""Model files: what one may hold, checked before Keras reads it."""
