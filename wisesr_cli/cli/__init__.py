"""The command line: turns arguments into requests and shows the results. One module per command."""
