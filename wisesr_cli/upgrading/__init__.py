"""Upgrades a trained Keras classifier to a wisesr head with the same outputs."""
