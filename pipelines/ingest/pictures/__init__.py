"""Pictures of items: where they lie, fetching and storing them."""
