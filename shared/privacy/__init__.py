"""What differential privacy is made of: the accountant, and noise that nobody can guess."""
