"""cnnprobe."""
