"""What a sweep is doing, and how a cluster runs it."""
