"""Who runs together: one exchange and its tasks."""
