"""The commands, by what they are about: each parses, calls one module, and prints."""
