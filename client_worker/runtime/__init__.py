"""The client worker while it runs: its connection, mailbox, kept updates and listeners."""
