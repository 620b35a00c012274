"""Tables of measurements: every claim about the method as rows of runs of train.py. `python -m experiments --help`."""
