"""The chaos suite: a real federation, whatever can go wrong, and a ledger that tells."""
