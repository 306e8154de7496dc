"""What is said: requests, events, usage. The one vocabulary that dialects and providers share."""
