"""Bytes -> labelled pictures -> uint8 pack -> batches."""
