"""Browser tests; a package, because the picture script shares their driver."""
