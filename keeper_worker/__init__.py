"""The keeper: keeps the seeds of masks, and gives away sums of masks over enough clients."""
