"""States that do not fit what they are loaded into."""
