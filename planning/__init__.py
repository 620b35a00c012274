"""What a run would take, said before it is begun."""
