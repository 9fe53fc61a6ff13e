"""Shared-memory reads by consumers on the same host.

control_page  one page per partition: how far it is published, under a sequence counter
mapping       mmap(2) beyond the end of a file, and asking for pages without dying of SIGBUS
locate        finding an offset in a closed segment by its index
segment_file  whole batches out of one segment file
messages      what reader and worker say to each other on the unix socket
access        who may connect
connection    one connected reader, in the worker
shared        what a worker must tell of a partition, and where an offset lies
server        hands out descriptors and wakes sleeping readers, in the worker
partition     one partition, in the consumer's process
reader        its connection to a worker
"""
