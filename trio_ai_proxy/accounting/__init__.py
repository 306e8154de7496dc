"""What it cost: watches events, never holds them up."""
