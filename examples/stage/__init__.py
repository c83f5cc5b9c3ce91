"""The stage that the hospital examples play on: broker, processes, view, comparison, report."""
