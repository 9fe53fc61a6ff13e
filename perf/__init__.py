"""Benchmarks: `python -m perf`, or `make bench`. Each figure stands beside what the machine gave a moment before."""
