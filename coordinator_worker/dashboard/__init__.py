"""The web dashboard: one page without anything from elsewhere, fed by a federation's events."""
