"""Decoding images: one result, whatever the format and the path."""
