"""Feature vectors of images, for search, clustering and classifiers of other kinds."""
