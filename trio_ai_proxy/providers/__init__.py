"""What the upstream speaks. A concrete provider is met through `providers.table`."""
