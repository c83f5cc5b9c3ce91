"""The protocol: messages, their bytes, and how they are signed, encrypted and cut into chunks."""
