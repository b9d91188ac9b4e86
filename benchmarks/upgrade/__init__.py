"""What `wisesr upgrade` does with classifiers built as in public guides."""
