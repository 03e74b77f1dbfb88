"""The command line, from words to files, output and exit code."""
