"""Lists the files of a data set with their labels, from folders or a manifest."""
