"""Which files a data set has, and under which labels: by folders, or by a file."""
