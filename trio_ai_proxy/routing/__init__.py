"""Where it goes: decides, never sleeps."""
