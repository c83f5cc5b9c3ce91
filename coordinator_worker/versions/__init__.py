"""Model versions: found, compared, exported, rolled back, and described."""
