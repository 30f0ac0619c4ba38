"""The command line: `python -m qusr_train COMMAND`."""
