"""What is said where no other cause applies."""
