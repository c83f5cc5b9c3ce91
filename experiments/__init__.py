"""Experiments: what the algorithms learn, beside the published or the pooled figure."""
