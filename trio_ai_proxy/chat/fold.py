"""Events → one whole answer: the same events that stream, gathered for a client that wants them at once."""
