"""Consumer groups, classic and KIP-848, and the offsets that they commit. No I/O, no clock."""
