"""How many copies of photos `wisesr check --near-duplicates` finds, how many others it takes for copies, how fast."""
