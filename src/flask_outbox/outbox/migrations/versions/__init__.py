"""One file for each version, in order; each expands or contracts, never both."""
