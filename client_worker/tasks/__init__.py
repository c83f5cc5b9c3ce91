"""What a user brings, looked at before it is trained on."""
