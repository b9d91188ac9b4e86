"""Model files, checked before Keras reads them."""
