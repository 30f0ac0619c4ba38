"""Weight files: ours and the authors', read and written."""
