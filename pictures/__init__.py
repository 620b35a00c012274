"""What a finished pyramid looks like."""
