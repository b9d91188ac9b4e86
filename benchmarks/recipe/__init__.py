"""What the plain command achieves on a folder, against plain Keras: accuracy and minutes; the tour of all commands."""
