"""Which memories bear on this request, and how they fit into the prompt."""
