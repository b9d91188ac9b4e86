"""Explaining predictions: what every position of the feature map adds to a logit, in numbers and pictures."""
