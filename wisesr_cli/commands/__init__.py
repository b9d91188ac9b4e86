"""The commands, a module each: options in, one call of the work, one call of the display."""
