"""Bytes -> labelled images -> uint8 pack -> batches."""
