"""`make demo`: real text through a real broker, a worker killed on the way, everything verified."""
