"""The sweep folder: where its files lie, and who may write them."""
