"""May it pass: who asks, how much, how many at once."""
