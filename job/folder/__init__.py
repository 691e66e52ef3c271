"""The sweep folder: where its files lie, and which process may write them."""
