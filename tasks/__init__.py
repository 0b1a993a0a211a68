"""What kind of work a request is."""
