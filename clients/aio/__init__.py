"""The clients for asyncio: the same core as the threaded ones, and the same names (`from kbroker.aio import …`)."""
