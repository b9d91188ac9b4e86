"""Upgrading a trained Keras classifier to a head of ours with the same outputs."""
