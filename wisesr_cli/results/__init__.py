"""The results of all commands: frozen records whose fields are those of the JSON output. Standard library only."""
