"""Jobs, plans, messages and the command line: the producer side, free of numpy and runtimes."""
