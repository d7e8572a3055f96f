"""The laboratory that assembles the checkpoint small, from open weights that a package index carries and our own."""
