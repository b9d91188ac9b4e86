"""The command line: what is typed becomes a request, what comes back is shown. One module a command."""
