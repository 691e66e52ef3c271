"""The page of a sweep, summary.html: one file that needs no server and no network."""
