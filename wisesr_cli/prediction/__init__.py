"""Labelling images: resumable, in order, in constant memory."""
