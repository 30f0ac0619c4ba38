"""Pictures: found, read, checked, enlarged, cut into tiles, coloured, written."""
