"""What `wisesr upgrade` makes of classifiers as the public guides build them."""
