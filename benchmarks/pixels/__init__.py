"""How much pixels differ from those of a slower, simpler method."""
