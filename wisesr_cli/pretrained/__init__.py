"""Pretrained weights on this machine: listed, fetched and added."""
