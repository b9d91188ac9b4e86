"""Evaluating a run on labelled images."""
