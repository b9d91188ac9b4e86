"""How far pixels are from those of a slower, plainer way to get them."""
