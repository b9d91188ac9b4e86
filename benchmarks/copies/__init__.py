"""How many copies of photos `wisesr check --near-duplicates` finds, how many false positives it has, and how fast."""
