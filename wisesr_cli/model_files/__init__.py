"""Reads and writes model files, checking them before Keras reads them."""
