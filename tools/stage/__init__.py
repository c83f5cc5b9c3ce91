"""What `make screenshots` plays, and how it is photographed."""
