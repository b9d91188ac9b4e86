"""Decodes images: the same result for every format and code path."""
