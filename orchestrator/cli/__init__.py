"""The `meansweep` command: each command parses, calls one function, and prints."""
