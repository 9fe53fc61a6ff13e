"""Record batches: bytes in, facts out. No I/O, no clock."""
