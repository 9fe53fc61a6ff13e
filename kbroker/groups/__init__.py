"""Consumer groups: so far the offsets that their clients commit. No I/O, no clock."""
