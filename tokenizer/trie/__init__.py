"""The trie of valid SIDs: building, updating, masks for beam search, filters and export."""
