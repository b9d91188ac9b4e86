"""Commands with subcommands, such as `wisesr runs remove`."""
