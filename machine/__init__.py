"""What the machine has, and the processes of a run that share it."""
