"""Comparing heads: over seeds by training them, and by what they cost."""
