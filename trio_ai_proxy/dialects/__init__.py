"""What the client speaks. A concrete dialect is met through `dialects.table`."""
