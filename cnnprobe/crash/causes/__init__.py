"""The causes of crashes, one a file."""
