"""How we know: log lines, metrics, exchange records."""
