"""One image file -> pixels: formats, metadata, colours, damage and bounds."""
