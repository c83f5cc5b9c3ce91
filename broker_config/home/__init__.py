"""The folder in which a federation is administered: who works in it, and in what order."""
