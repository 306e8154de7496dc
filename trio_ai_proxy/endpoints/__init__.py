"""How HTTP looks: an exact table of raw path and method."""
