"""Hostile bytes: what must hold whatever comes, for the fuzzer and for the tests alike."""
