"""What the plain command makes of a folder: accuracy and minutes beside plain Keras, and the tour of all commands."""
