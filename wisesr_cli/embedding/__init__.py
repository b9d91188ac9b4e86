"""Feature vectors of images, for search, clustering and other kinds of classifiers."""
