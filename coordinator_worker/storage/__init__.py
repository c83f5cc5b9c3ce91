"""The checkpoint folder: checkpoint, past versions, audit log, and the lock on it."""
