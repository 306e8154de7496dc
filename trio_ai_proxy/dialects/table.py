"""Which dialects there are."""
