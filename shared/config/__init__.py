"""What a program of Warren is told: who it is, from its bundle and environment."""
