"""The command line: one module a command, which knows capabilities and no method by name."""
