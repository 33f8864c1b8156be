"""The command line `molmo`: `main` and one file a command."""
