"""How bytes come: the only home of httpx."""
