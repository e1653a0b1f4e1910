"""What tests are built with; nothing in this folder is a test."""
