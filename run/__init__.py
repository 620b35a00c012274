"""What surrounds a fit: its session, what it shows, and what it was worth."""
