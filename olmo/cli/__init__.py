"""The command line `molmo`: one thin file a command, no logic of its own."""
